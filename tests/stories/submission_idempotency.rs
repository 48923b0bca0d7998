//! An Idempotency-Key makes one job of many requests, also at the same time and over a restart.

use postrail_tests::postrail::Postrail;
use postrail_tests::receiver::{Act, Stage};
use postrail_tests::scene::Scene;
use postrail_tests::wait;
use serde_json::{Value, json};

/// Status, whether it says that it is a replay, and the body.
fn submit(postrail: &Postrail, job: &Value, key: &str) -> (u16, bool, Value) {
    let client = reqwest::blocking::Client::new();
    let request = client.post(format!("http://{}/v2/jobs", postrail.rest)).header("Idempotency-Key", key);
    let response = request.basic_auth(&postrail.username, Some(&postrail.secret)).json(job).send().expect("an answer");
    let status = response.status().as_u16();
    let replayed = response.headers().get("x-idempotent-replayed").is_some_and(|value| value == "true");
    (status, replayed, response.json().expect("a JSON body"))
}

#[test]
fn a_key_answers_the_same_again_and_refuses_another_body() {
    let scene = Scene::new("idempotent");
    let job = scene.job(&["a@receiver.test", "broken@", "b@receiver.test"]);
    let (status, replayed, first) = submit(&scene.postrail, &job, "order-1");
    assert_eq!((status, replayed), (202, false), "{first}");
    // Some of them go to the shard that does not own the key.
    for _ in 0..6 {
        let (status, replayed, again) = submit(&scene.postrail, &job, "order-1");
        assert_eq!((status, replayed), (202, true), "{again}");
        assert_eq!(again, first);
    }
    let (status, _, other) = submit(&scene.postrail, &scene.job(&["c@receiver.test"]), "order-1");
    assert_eq!((status, &other["code"]), (409, &json!("idempotency_conflict")), "{other}");
    let (status, _, bad) = submit(&scene.postrail, &job, "no spaces");
    assert_eq!(status, 400, "{bad}");
    let (status, replayed, next) = submit(&scene.postrail, &job, "order-2");
    assert_eq!((status, replayed), (202, false), "{next}");
    assert_ne!(next["meta"]["jobId"], first["meta"]["jobId"], "another key is another job");
    scene.receiver.wait_for(4);
    let id = next["meta"]["jobId"].as_str().expect("an id");
    scene.postrail.all_recipients(id, 2);
    assert_eq!(scene.receiver.arrived().len(), 4, "two jobs of two valid addresses");
}

#[test]
fn a_refused_request_leaves_its_key_free() {
    let scene = Scene::new("idempotent-refused");
    let (status, _, _) = submit(&scene.postrail, &json!({"subject": {"content": "x"}}), "order-1");
    assert_eq!(status, 422);
    let (status, replayed, answer) = submit(&scene.postrail, &scene.job(&["a@receiver.test"]), "order-1");
    assert_eq!((status, replayed), (202, false), "{answer}");
    scene.receiver.wait_for(1);
}

#[test]
fn requests_at_the_same_time_make_one_job() {
    let scene = Scene::new("idempotent-race");
    for round in 0..5 {
        let job = scene.job(&["a@receiver.test"]);
        let key = format!("race-{round}");
        let answers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(|| submit(&scene.postrail, &job, &key))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let mut ids: Vec<&Value> = Vec::new();
        for (status, _, answer) in &answers {
            match status {
                202 => ids.push(&answer["meta"]["jobId"]),
                409 => assert_eq!(answer["code"], "idempotency_in_progress", "{answer}"),
                _ => panic!("{status}: {answer}"),
            }
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "one job: {answers:?}");
        let first = answers.iter().filter(|(status, replayed, _)| *status == 202 && !replayed).count();
        assert_eq!(first, 1, "one of them made it");
    }
    scene.receiver.wait_for(5);
    let id = submit(&scene.postrail, &scene.job(&["last@receiver.test"]), "last").2;
    scene.postrail.all_recipients(id["meta"]["jobId"].as_str().expect("an id"), 1);
    assert_eq!(scene.receiver.arrived().len(), 6);
}

#[test]
fn a_key_is_remembered_over_a_crash() {
    let mut scene = Scene::new("idempotent-crash");
    scene.receiver.script(Stage::Rcpt, Act::Say("450 4.2.0 Later\r\n".to_owned()), usize::MAX);
    let waiting = scene.job(&["a@receiver.test", "broken@"]);
    let (status, _, first) = submit(&scene.postrail, &waiting, "waiting");
    assert_eq!(status, 202, "{first}");
    let id = first["meta"]["jobId"].as_str().expect("an id").to_owned();
    scene.postrail.wait_for_state(&id, "deferred");
    scene.postrail.kill_and_restart();
    // Until the key can be known the answer is to come back, and never a second job.
    let (status, replayed, again) = wait::until("the keys to be restored", || {
        let answer = submit(&scene.postrail, &waiting, "waiting");
        (answer.0 != 503 || answer.2["code"] != "recovering").then_some(answer)
    });
    assert_eq!((status, replayed), (202, true), "{again}");
    assert_eq!(again, first, "the same answer as before the crash");
    let (status, _, other) = submit(&scene.postrail, &scene.job(&["b@receiver.test"]), "waiting");
    assert_eq!((status, &other["code"]), (409, &json!("idempotency_conflict")), "{other}");
}
