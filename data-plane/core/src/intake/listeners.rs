//! What a host is to listen on, under one snapshot: what that says for it, else what its options say.

use postrail_schema::listener::Listener;
use postrail_schema::snapshot::Snapshot;

/// A host, as listeners name hosts, and what it was started with.
#[derive(Clone, Debug, Default)]
pub struct ListeningHost {
    /// Its name in the fleet; empty: it has none.
    pub name: String,
    /// Empty: none.
    pub region: String,
    /// What it listens on while no listener is for it.
    pub options: Vec<Listener>,
}

/// A listener that a host is to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    pub listener: Listener,
    /// The listener that has its address already.
    pub displaced_by: Option<String>,
}

/// What `host` is to listen on, in the order of names. Of two that clash the first one is opened.
pub fn wanted(snapshot: &Snapshot, host: &ListeningHost) -> Vec<Wanted> {
    let region = snapshot.regions.values().find(|known| known.name == host.region).map(|known| known.id);
    let mut wanted: Vec<Wanted> = Vec::new();
    for listener in snapshot.listeners.values().filter(|listener| listener.is_for(&host.name, region)) {
        let opened = wanted.iter().filter(|other| other.displaced_by.is_none());
        let displaced_by = opened.map(|other| &other.listener).find(|other| other.clashes(listener));
        wanted.push(Wanted { displaced_by: displaced_by.map(|other| other.name.clone()), listener: listener.clone() });
    }
    if wanted.is_empty() {
        return host.options.iter().map(|listener| Wanted { listener: listener.clone(), displaced_by: None }).collect();
    }
    wanted
}

#[cfg(test)]
mod tests {
    use postrail_schema::allocation::HostName;
    use postrail_schema::listener::ListenerProtocol;
    use postrail_schema::snapshot::SnapshotContent;

    use super::*;

    fn listener(name: &str, address: &str, hosts: &[&str]) -> Listener {
        Listener {
            name: name.to_owned(),
            hosts: hosts.iter().map(|host| HostName::new(*host).unwrap()).collect(),
            ..Listener::of_options(ListenerProtocol::Smtp, address.parse().unwrap())
        }
    }

    fn names(listeners: Vec<Listener>, host: &str) -> Vec<(String, Option<String>)> {
        let snapshot = Snapshot::new(SnapshotContent { listeners, ..SnapshotContent::default() }).unwrap();
        let options = vec![listener("", "127.0.0.1:2525", &[])];
        let host = ListeningHost { name: host.to_owned(), region: String::new(), options };
        wanted(&snapshot, &host).into_iter().map(|wanted| (wanted.listener.name, wanted.displaced_by)).collect()
    }

    #[test]
    fn options_hold_until_a_listener_is_for_the_host() {
        let of = |text: &str| (text.to_owned(), None);
        assert_eq!(names(vec![], "mx1"), [of("")]);
        assert_eq!(names(vec![listener("a", "0.0.0.0:587", &["mx2"])], "mx1"), [of("")]);
        assert_eq!(names(vec![listener("a", "0.0.0.0:587", &["mx2"])], "mx2"), [of("a")]);
        assert_eq!(names(vec![listener("a", "0.0.0.0:587", &[])], "mx1"), [of("a")]);
    }

    #[test]
    fn of_two_that_clash_the_first_name_is_opened() {
        let clashing = vec![listener("b", "0.0.0.0:587", &[]), listener("a", "192.0.2.1:587", &["mx1"])];
        assert_eq!(names(clashing, "mx1"), [("a".to_owned(), None), ("b".to_owned(), Some("a".to_owned()))]);
    }
}
