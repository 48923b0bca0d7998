//! The questions of one check: none is asked twice, there are only so many, and none is answered after the check's time.
//!
//! Name servers that leave [`SILENCES_MAX`] questions in a row without an answer are not asked any more: a check of many
//! records ends soon also where nobody answers. One of a zone's own servers that is silent is not asked again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use postrail_schema::limits::{DOMAIN_CHECK_QUESTIONS_MAX, DOMAIN_CHECK_TIMEOUT};
use tokio::time::{Instant, timeout_at};

use crate::dns::{Answer, Failure, Kind, Lookup};

/// See the module head.
pub(super) struct Session<'a, L> {
    lookup: &'a L,
    until: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the one server that was asked, or `None`: the configured ones.
    known: HashMap<(Option<IpAddr>, String, Kind), Answer>,
    asked: u32,
    /// Questions in a row that the configured servers left without an answer.
    silences: u32,
    /// The last of those.
    silence: Option<Answer>,
    /// Servers of zones that have left a question without an answer, with that.
    silent: HashMap<IpAddr, Answer>,
}

impl<'a, L: Lookup> Session<'a, L> {
    pub(super) fn new(lookup: &'a L) -> Self {
        Self { lookup, until: Instant::now() + DOMAIN_CHECK_TIMEOUT, state: Mutex::default() }
    }

    async fn remembered(&self, server: Option<IpAddr>, name: &str, kind: Kind) -> Answer {
        let key = (server, name.to_ascii_lowercase(), kind);
        if let Some(answer) = self.state().without_asking(&key) {
            return answer;
        }
        let asked = async {
            match server {
                Some(server) => self.lookup.ask_at(server, &key.1, kind).await,
                None => self.lookup.ask(&key.1, kind).await,
            }
        };
        let answer = timeout_at(self.until, asked).await.unwrap_or(Answer::failed(None, Failure::Timeout));
        self.state().keep(key, &answer);
        answer
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What is known, or may not be asked; otherwise counts the question.
    fn without_asking(&mut self, key: &(Option<IpAddr>, String, Kind)) -> Option<Answer> {
        if let Some(answer) = self.known.get(key) {
            return Some(answer.clone());
        }
        if self.silences >= SILENCES_MAX && key.0.is_none() {
            return self.silence.clone();
        }
        if let Some(answer) = key.0.and_then(|server| self.silent.get(&server)) {
            return Some(answer.clone());
        }
        if self.asked == DOMAIN_CHECK_QUESTIONS_MAX {
            return Some(Answer::failed(None, Failure::TooMany));
        }
        self.asked += 1;
        None
    }

    fn keep(&mut self, key: (Option<IpAddr>, String, Kind), answer: &Answer) {
        if key.0.is_none() {
            let silent = answer.failure() == Some(Failure::Timeout);
            self.silences = if silent { self.silences + 1 } else { 0 };
            self.silence = silent.then(|| answer.clone());
        }
        if let Some(server) = key.0.filter(|_| answer.failure() == Some(Failure::Timeout)) {
            self.silent.insert(server, answer.clone());
        }
        self.known.insert(key, answer.clone());
    }
}

impl<L: Lookup> Lookup for Session<'_, L> {
    async fn ask(&self, name: &str, kind: Kind) -> Answer {
        self.remembered(None, name, kind).await
    }

    async fn ask_at(&self, server: IpAddr, name: &str, kind: Kind) -> Answer {
        self.remembered(Some(server), name, kind).await
    }
}

/// See the module head.
const SILENCES_MAX: u32 = 2;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::dns::{Found, zone::Zone};

    /// Counts the questions that reach it.
    struct Counted(Zone, AtomicU32);

    impl Lookup for Counted {
        async fn ask(&self, name: &str, kind: Kind) -> Answer {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.ask(name, kind).await
        }

        async fn ask_at(&self, server: IpAddr, name: &str, kind: Kind) -> Answer {
            self.0.ask_at(server, name, kind).await
        }
    }

    #[tokio::test]
    async fn a_question_is_asked_once_and_silent_servers_are_given_up() {
        let zone = "a.example TXT x\nb.example FAIL timeout\nc.example FAIL timeout\nd.example TXT x";
        let counted = Counted(Zone::read(zone), AtomicU32::new(0));
        let session = Session::new(&counted);
        for name in ["a.example", "A.example", "b.example", "c.example", "d.example", "e.example"] {
            session.ask(name, Kind::Txt).await;
        }
        assert_eq!(counted.1.load(Ordering::Relaxed), 3);
        let given_up = session.ask("d.example", Kind::Txt).await;
        assert_eq!(given_up.found, Found::Failed(Failure::Timeout));
        assert!(given_up.server.is_some(), "the server that was silent is named");
    }

    #[tokio::test]
    async fn there_are_only_so_many_questions() {
        let counted = Counted(Zone::default(), AtomicU32::new(0));
        let session = Session::new(&counted);
        for number in 0..=DOMAIN_CHECK_QUESTIONS_MAX {
            session.ask(&format!("n{number}.example"), Kind::A).await;
        }
        assert_eq!(counted.1.load(Ordering::Relaxed), DOMAIN_CHECK_QUESTIONS_MAX);
        assert_eq!(session.ask("more.example", Kind::A).await.failure(), Some(Failure::TooMany));
    }
}
