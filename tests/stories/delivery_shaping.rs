//! Throttles and limits by shaping rules, as receivers see them.

use std::collections::BTreeSet;
use std::time::Duration;

use postrail_tests::receiver::{Act, Arrived, Receiver, Stage};
use postrail_tests::wait;
use postrail_tests::world::World;
use serde_json::{Value, json};

const ZONES: [(&str, &str); 2] =
    [("slow.test.", "@ MX 10 mx\nmx A 127.0.0.21\n*.box MX 10 mx"), ("free.test.", "@ MX 10 mx\nmx A 127.0.0.22")];

/// Mail leaves from one address, which one of the two shards owns: what the other accepts crosses to it.
fn use_one_source(world: &World) {
    let source = json!({"name": "one", "address": "127.0.0.51", "ehlo_name": "out.sender.test"});
    world.postrail.control_ok("POST", "/v2/sources", Some(&source));
    let pool = json!({"name": "one", "members": [{"source": "one"}]});
    world.postrail.control_ok("POST", "/v2/pools", Some(&pool));
    world.postrail.control_ok("PATCH", "/v2/domains/sender.test", Some(&json!({"pool": "one"})));
}

fn cli(world: &World, line: &str) -> String {
    let (done, text) = world.postrail.cli(&line.split(' ').collect::<Vec<_>>());
    assert!(done, "{line}: {text}");
    world.postrail.settled_configuration();
    text
}

/// Submits a job of so many mails to one domain, each a mail of its own.
fn submit(world: &World, domain: &str, count: usize, campaign: &str) {
    let to = |number| json!({"mail": {"to": [{"email": format!("u{number}-{campaign}@{domain}")}]}});
    let job = json!({
        "subject": {"content": "A job"}, "body": {"content": "text", "contentType": "text/plain"},
        "recipients": (0..count).map(to).collect::<Vec<Value>>(),
        "mail": {"from": {"email": "app@sender.test"}}, "job": {"campaignId": campaign},
    });
    let (status, answer) = world.postrail.submit(&job);
    assert_eq!(status, 202, "{answer}");
}

/// Whether in no time more mails were begun than a rate of one in `interval` lets through. What was sent evenly may come a
/// second less evenly, on a busy machine.
fn keeps_to(arrived: &[Arrived], interval: Duration) -> bool {
    let mut times: Vec<_> = arrived.iter().filter_map(|mail| mail.began).collect();
    times.sort_unstable();
    let pairs = (0..times.len()).flat_map(|first| (first + 1..times.len()).map(move |last| (first, last)));
    let most = |window: Duration| 1 + ((window + Duration::from_secs(1)).as_nanos() / interval.as_nanos()) as usize;
    pairs.into_iter().all(|(first, last)| last - first < most(times[last].duration_since(times[first])))
}

/// The most mails that were under way at once.
fn most_at_once(arrived: &[Arrived]) -> usize {
    let spans: Vec<_> = arrived.iter().filter_map(|mail| Some((mail.began?, mail.at?))).collect();
    spans.iter().map(|(at, _)| spans.iter().filter(|(from, to)| from <= at && at < to).count()).max().unwrap_or(0)
}

fn waiting(world: &World, domain: &str) -> u64 {
    let queue = world.postrail.control_ok("GET", "/v2/queue", None);
    let shards = queue["shards"].as_array().into_iter().flatten();
    let rows = shards.flat_map(|shard| shard["domains"].as_array().into_iter().flatten());
    rows.filter(|row| row["domain"] == domain).filter_map(|row| row["recipients"].as_u64()).sum()
}

fn all(receiver: &Receiver, count: usize) -> Vec<Arrived> {
    wait::within(Duration::from_secs(60), &format!("{count} mails"), || {
        let arrived = receiver.arrived();
        (arrived.len() >= count).then_some(arrived)
    })
}

#[test]
fn a_rate_is_held_from_the_moment_the_rule_is_there_and_another_site_goes_on() {
    let world = World::new("shaping-rate", &ZONES);
    let (slow, free) = (world.receiver(21), world.receiver(22));
    use_one_source(&world);
    cli(&world, "shaping-rule add slow --site mx.slow.test --mail-rate 10/s");
    submit(&world, "slow.test", 200, "usual");
    submit(&world, "free.test", 200, "usual");
    free.wait_for(200);
    assert!(waiting(&world, "slow.test") > 0, "the throttled site has not had all in that time");
    let table = cli(&world, "queue");
    assert!(table.contains("throttled") && table.contains("10/s mails (slow)"), "{table}");
    let arrived = all(&slow, 40);
    assert!(keeps_to(&arrived, Duration::from_millis(100)), "10/s");
    cli(&world, "shaping-rule set slow --site .slow.test --mail-rate 3600/h");
    let before = slow.arrived().len();
    let from = std::time::Instant::now();
    all(&slow, before + 5);
    assert!(from.elapsed() >= Duration::from_millis(2_500), "one a second: {:?}", from.elapsed());
    cli(&world, "shaping-rule remove slow");
    let from = std::time::Instant::now();
    all(&slow, 200);
    assert!(from.elapsed() < Duration::from_secs(15), "without the rule at once: {:?}", from.elapsed());
}

#[test]
fn connections_and_mails_on_one_are_limited_by_a_rule_that_comes_while_mail_flows() {
    let world = World::new("shaping-connections", &ZONES);
    let slow = world.receiver(21);
    slow.script(Stage::EndOfData, Act::Wait(Duration::from_millis(200)), usize::MAX);
    use_one_source(&world);
    submit(&world, "slow.test", 300, "usual");
    let before = all(&slow, 20);
    assert!(most_at_once(&before) > 3, "the default is ten connections");
    cli(&world, "shaping-rule add few --site mx.slow.test --connections 2 --mails-per-connection 5");
    let first = slow.arrived().len() + 10;
    let arrived = all(&slow, first + 40);
    let after = &arrived[first..];
    assert_eq!(most_at_once(after), 2, "both connections are used, and no third");
    let numbers: BTreeSet<usize> = after.iter().map(|mail| mail.connection).collect();
    let longest = numbers.iter().map(|number| after.iter().filter(|mail| mail.connection == *number).count()).max();
    assert!(longest <= Some(5), "{longest:?} mails on one connection");
    cli(&world, "shaping-rule set few --site mx.slow.test --connections 20");
    let first = slow.arrived().len();
    let arrived = all(&slow, (first + 60).min(300));
    assert!(most_at_once(&arrived[first..]) > 10, "a closer rule may allow more than the default");
}

#[test]
fn a_providers_limit_is_over_its_sites_and_a_campaigns_throttle_over_all() {
    let zones = [
        ("twins.test.", "mx1 A 127.0.0.21\nmx2 A 127.0.0.22"),
        ("first.test.", "@ MX 10 mx1.twins.test."),
        ("second.test.", "@ MX 10 mx2.twins.test."),
        ("other.test.", "@ MX 10 mx\nmx A 127.0.0.23"),
    ];
    let world = World::new("shaping-provider", &zones);
    let [first, second, other] = [21, 22, 23].map(|last| world.receiver(last));
    use_one_source(&world);
    for receiver in [&first, &second] {
        receiver.script(Stage::EndOfData, Act::Wait(Duration::from_millis(50)), usize::MAX);
    }
    cli(&world, "provider add twins --host .twins.test");
    cli(&world, "shaping-rule add twins --provider twins --connections 2 --mails-per-connection 10");
    cli(&world, "shaping-rule add sale --tenant default --pool one --campaign sale --mail-rate 5/s");
    submit(&world, "first.test", 60, "usual");
    submit(&world, "second.test", 60, "usual");
    submit(&world, "other.test", 40, "sale");
    submit(&world, "other.test", 100, "news");
    let mut twins = all(&first, 60);
    twins.extend(all(&second, 60));
    assert_eq!(most_at_once(&twins), 2, "over both sites");
    let arrived = all(&other, 140);
    let (sale, news): (Vec<_>, Vec<_>) = arrived.into_iter().partition(|mail| mail.rcpt[0].contains("-sale@"));
    assert_eq!((sale.len(), news.len()), (40, 100));
    assert!(keeps_to(&sale, Duration::from_millis(200)), "5/s of the campaign");
    let last = |mails: &[Arrived]| mails.iter().filter_map(|mail| mail.began).max();
    assert!(last(&news) < last(&sale), "other mail of the tenant went on");
    let (done, text) = world.postrail.cli(&["provider", "remove", "twins"]);
    assert!(!done && text.contains("shaping_rule/twins"), "a rule names it: {text}");
}
