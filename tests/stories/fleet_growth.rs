//! Limits of paths whose address has come to a host: they start low and grow with time, up to what is configured. The time
//! is that of CLOCK_BOOTTIME, which the story moves.

use std::process::Command;
use std::time::{Duration, Instant};

use postrail_tests::child::run;
use postrail_tests::place::{Place, root};
use postrail_tests::receiver::{Act, Stage};
use postrail_tests::wait;
use serde_json::json;

use crate::addresses::{Setting, World, connections_at_once};

/// Long enough that a host which is moved ahead by a period still holds what it has.
const LEASE: Duration = Duration::from_secs(45);

/// Between two doublings, as the manual says.
const PERIOD: Duration = Duration::from_secs(30);

/// What a rule allows the path.
const CONNECTIONS: usize = 5;

#[test]
fn a_path_whose_address_moved_grows_twofold_each_half_minute_up_to_its_limit() {
    let place = Place::new("growth");
    let (library, clock, next) = (place.join("boottime.so"), place.join("clock"), place.join("clock.new"));
    let source = root().join("tests/src/boottime.c");
    run(Command::new("gcc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(source));
    // Whole at every moment: time goes back for nobody.
    let ahead = |time: Duration| {
        std::fs::write(&next, time.as_millis().to_string()).expect("written");
        std::fs::rename(&next, &clock).expect("renamed");
    };
    ahead(Duration::ZERO);
    let (preload, offset) = (library.display().to_string(), clock.display().to_string());
    let environment = [("LD_PRELOAD", preload.as_str()), ("BOOTTIME_OFFSET_FILE", &offset)];
    let setting = Setting { environment: &environment, lease: Some(LEASE), ..Setting::default() };
    let world = World::with(place, setting);
    let moved = world.address_of(0);
    let member = json!({"source": world.source_of(moved)});
    world.fleet.change("PUT", "/v2/pools/default", &json!({"members": [member]}));
    let rule = json!({"name": "five", "match": {"site": "mx.receiver.test"}, "connections": CONNECTIONS});
    world.fleet.change("POST", "/v2/shaping-rules", &rule);
    world.fleet.settle();
    world.receiver.script(Stage::EndOfData, Act::Wait(Duration::from_millis(150)), usize::MAX);

    let (done, text) = world.host(&["drain", "host-1"]);
    assert!(done, "{text}");
    wait::until("the other host to have the address", || world.station(1).has(moved).then_some(()));
    let came = Instant::now();
    let to: Vec<_> = (0..900).map(|number| format!("n{number}@receiver.test")).collect();
    let submitter = world.fleet.hosts[1].submitter(&world.fleet.username, &world.fleet.secret);
    assert!(matches!(submitter.submit_all(&to), Some((202, _))));
    for (periods, connections) in [(0, 1), (1, 2), (2, 4), (3, CONNECTIONS), (4, CONNECTIONS)] {
        // A second into the period, so that the next is far whatever this machine is busy with.
        let age = PERIOD * periods + Duration::from_secs(1);
        ahead(age.saturating_sub(came.elapsed()));
        let since = Instant::now();
        let at_once = || connections_at_once(&world.receiver.arrived(), moved, since);
        wait::until(&format!("{connections} connections at once"), || (at_once() >= connections).then_some(()));
        let enough = world.receiver.count() + 5 * connections;
        world.receiver.wait_for(enough);
        assert_eq!(at_once(), connections, "after {periods} periods");
        println!(
            "{connections} at once after {periods} periods, {:.1} s after the address came",
            came.elapsed().as_secs_f64()
        );
    }
    assert!(world.receiver.arrived().iter().all(|mail| mail.peer.is_some_and(|peer| peer.ip() == moved)));
    assert!(came.elapsed() < PERIOD * 5, "it was the clock that was moved: {:?}", came.elapsed());
}
