//! A fleet whose processes are replaced one at a time, in either order: restarted, or upgraded where POSTRAIL_FORMER_BIN names
//! the binary of an earlier version, which `ops/story-upgrade COMMIT` builds.
//!
//! In each state between, configuration reaches every host, mail goes out from each, mail that waits is sent by the process
//! that comes, and what was suppressed stays so.

use std::path::PathBuf;

use postrail_tests::etcd::Etcd;
use postrail_tests::fleet::{Fleet, Plan};
use postrail_tests::place::Place;
use postrail_tests::receiver::{Act, Receiver, Stage};
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::json;

use crate::durability::ZONE;

const SUPPRESSED: &str = "left@receiver.test";

struct World {
    fleet: Fleet,
    receiver: Receiver,
    _names: NameServer,
    _place: Place,
    /// How many rules were made.
    changes: u64,
}

/// All of the former version.
fn world(name: &str) -> World {
    let former = std::env::var_os("POSTRAIL_FORMER_BIN").map(PathBuf::from);
    let place = Place::new(name);
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let resolver = names.address().to_string();
    let options = ["--resolver", &resolver, "--shards", "2"];
    let plan = |_: &str| Plan { options: &options, binary: former.as_deref(), ..Plan::default() };
    let fleet = Fleet::start_as(&place, Etcd::start(&place), 2, plan);
    let route = json!({"domain": "*", "port": receiver.address().port(), "allow_private": true});
    fleet.change("POST", "/v2/routes", &route);
    let suppression = json!({"address": SUPPRESSED, "reason": "asked to"});
    fleet.change("POST", "/v2/suppressions?tenant=default", &suppression);
    World { fleet, receiver, _names: names, _place: place, changes: 0 }
}

impl World {
    /// What a fleet has to do in any state.
    fn works(&mut self, state: &str) {
        self.changes += 1;
        let rule =
            json!({"name": format!("rule-{}", self.changes), "match": {"site": "receiver.test"}, "connections": 9});
        self.fleet.change("POST", "/v2/shaping-rules", &rule);
        self.fleet.settle();
        let mail: Vec<_> =
            (0..self.fleet.hosts.len()).map(|host| self.fleet.accepted(host, "someone@receiver.test")).collect();
        mail.iter().for_each(|job| self.fleet.delivered(job));
        let before = self.receiver.count();
        for host in &self.fleet.hosts {
            wait::until_told(&format!("{state}: {} to refuse who is suppressed", host.name), || {
                let (status, answer) = host.submit(&self.fleet.username, &self.fleet.secret, SUPPRESSED);
                if status == 422 { Ok(()) } else { Err(format!("{status} {answer}")) }
            });
        }
        assert_eq!(self.receiver.count(), before, "{state}: nothing is sent to who is suppressed");
    }

    fn settled(&self, job: &str, state: &str) {
        wait::until_told(&format!("{job} to be {state}"), || {
            let (_, answer) =
                self.fleet.control.control(&self.fleet.token, "GET", &format!("/v2/jobs/{job}/recipients"), None);
            let is_so = answer["items"]
                .as_array()
                .is_some_and(|all| !all.is_empty() && all.iter().all(|one| one["state"] == state));
            if is_so { Ok(()) } else { Err(answer.to_string()) }
        });
    }

    /// Mail that waits at a host for the time when that is upgraded.
    fn waiting(&self, host: usize) -> String {
        self.receiver.script(Stage::Rcpt, Act::Say("451 4.3.0 later\r\n".to_owned()), 1);
        let job = self.fleet.accepted(host, "later@receiver.test");
        self.settled(&job, "deferred");
        job
    }

    fn replace_control(&mut self) {
        self.fleet.control.replace();
        self.fleet.control.wait_for(self.fleet.control.api, "/readyz");
    }

    /// A host with mail that waits, which is sent by the version that comes.
    fn replace_host(&mut self, host: usize) {
        let job = self.waiting(host);
        let member = &mut self.fleet.hosts[host];
        member.replace();
        member.wait_for(member.admin, "/readyz");
        wait::until("the mail to be asked for again", || {
            self.fleet.control.control(&self.fleet.token, "POST", "/v2/queue/retry", Some(&json!({})));
            let path = format!("/v2/jobs/{job}/recipients");
            let (_, answer) = self.fleet.control.control(&self.fleet.token, "GET", &path, None);
            (answer.pointer("/items/0/state")? == "delivered").then_some(())
        });
    }
}

#[test]
fn the_processes_of_a_fleet_are_replaced_from_its_control_plane_on() {
    let mut world = world("replaced-control");
    world.works("all of before");
    world.replace_control();
    world.works("the control plane replaced");
    world.replace_host(0);
    world.works("one host replaced as well");
    world.replace_host(1);
    world.works("all replaced");
}

#[test]
fn the_processes_of_a_fleet_are_replaced_from_its_hosts_on() {
    let mut world = world("replaced-hosts");
    world.replace_host(0);
    world.works("one host replaced");
    world.replace_host(1);
    world.works("both hosts replaced");
    world.replace_control();
    world.works("all replaced");
}
