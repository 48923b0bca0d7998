//! The steps of a transaction from one reply to the next, and the ends of a connection.

use bytes::Bytes;

use super::transaction::{Running, bounded};
use super::{Client, End, Fault, Output, Phase, QUIT, RSET, Reply, State, refused_with};
use crate::base::Instant;

impl Client {
    pub(super) fn answer_mail(&mut self, now: Instant, reply: &Reply) {
        let Some(running) = self.running.as_mut() else { return };
        if reply.is_intermediate() {
            return self.out_of_step(reply);
        }
        if reply.is_success() || self.extensions.pipelining {
            if !reply.is_success() {
                running.mail_refused = true;
                running.settle_rest(Phase::Mail, reply, false);
            }
            return self.expect_rcpt(now);
        }
        running.settle_rest(Phase::Mail, reply, false);
        self.finish(now, false);
    }

    pub(super) fn answer_rcpt(&mut self, now: Instant, reply: Reply) {
        if reply.is_intermediate() {
            return self.out_of_step(&reply);
        }
        let Some(running) = self.running.as_mut() else { return };
        running.answer_recipient(reply);
        self.expect_rcpt(now);
    }

    /// Goes on to the next RCPT, or to DATA when all are answered.
    fn expect_rcpt(&mut self, now: Instant) {
        let Some(running) = self.running.as_ref() else { return };
        let pipelined = self.extensions.pipelining;
        if !running.all_answered() {
            if !pipelined {
                let mut wire = Vec::with_capacity(128);
                running.write_next_rcpt(&mut wire);
                self.send(wire);
            }
            return self.enter(now, State::Rcpt);
        }
        if running.chunked {
            return self.enter(now, State::Message);
        }
        if !pipelined && !running.has_pending() {
            return self.finish(now, true);
        }
        if !pipelined {
            self.send(&b"DATA\r\n"[..]);
        }
        self.enter(now, State::Data);
    }

    pub(super) fn answer_data(&mut self, now: Instant, reply: &Reply) {
        let Some(running) = self.running.as_mut() else { return };
        let wanted = running.has_pending();
        if reply.is_intermediate() && wanted {
            self.enter(now, State::Message);
        } else if reply.is_intermediate() && running.any_accepted {
            // MAIL was refused and RCPT was not: a lone dot might send an empty message, closing does not.
            self.out_of_step(reply);
        } else if reply.is_intermediate() {
            // RFC 2920 3.1: DATA that was accepted without a recipient is ended at once.
            self.send(&b".\r\n"[..]);
            self.enter(now, State::LoneDot);
        } else if reply.is_success() {
            self.out_of_step(reply);
        } else {
            running.settle_rest(Phase::Data, reply, false);
            let reset = !running.mail_refused;
            self.finish(now, reset);
        }
    }

    pub(super) fn answer_message(&mut self, now: Instant, reply: &Reply) {
        let Some(running) = self.running.as_mut() else { return };
        let refused = reply.is_transient() || reply.is_permanent();
        if running.chunked && refused {
            // RFC 3030 section 2: a chunk that failed leaves the transaction to be reset.
            let reset = !running.mail_refused;
            match reply.code {
                500..=504 => running.settle_rest(
                    Phase::EndOfData,
                    &Fault::Protocol.reply(format_args!("CHUNKING is offered and BDAT refused: {reply}")),
                    false,
                ),
                _ => running.settle_rest(Phase::EndOfData, reply, false),
            }
            self.finish(now, reset);
        } else if !running.content.is_ended() {
            // Early: no end of data was sent, so nothing is delivered, and the dialogue cannot go on.
            if refused {
                self.end(reply);
            } else {
                self.out_of_step(reply);
            }
        } else if refused || reply.is_success() {
            running.settle_rest(Phase::EndOfData, reply, false);
            self.finish(now, false);
        } else {
            self.out_of_step(reply);
        }
    }

    /// Tells the outcome of the running transaction, and goes on with the next.
    pub(super) fn finish(&mut self, now: Instant, reset: bool) {
        self.refused = self.running.as_ref().is_some_and(Running::any_refused);
        loop {
            self.tell_outcome(self.quitting && self.ahead.is_empty() && self.waiting.is_empty());
            let Some(next) = self.ahead.pop_front() else { break };
            let is_sent = next.has_pending();
            self.running = Some(next);
            if is_sent {
                return self.enter(now, State::Rset);
            }
        }
        if reset && !(self.quitting && self.waiting.is_empty()) {
            self.send(RSET);
            self.enter(now, State::Rset);
        } else {
            self.idle(now);
        }
    }

    fn tell_outcome(&mut self, over: bool) {
        if let Some(running) = self.running.take() {
            let tag = running.tag();
            self.outputs.push_back(Output::Outcome { tag, recipients: running.into_settled(), over });
        }
    }

    /// A refusal of the whole session: says QUIT and does not wait for its reply.
    pub(super) fn refuse(&mut self, reply: &Reply) {
        if reply.is_transient() || reply.is_permanent() {
            self.end_with_quit(reply);
        } else {
            self.out_of_step(reply);
        }
    }

    pub(super) fn end_with_quit(&mut self, reply: &Reply) {
        self.end(reply);
        self.outputs.push_front(Output::Send(Bytes::from_static(QUIT)));
    }

    pub(super) fn out_of_step(&mut self, reply: &Reply) {
        let state = self.state.name();
        self.end(&Fault::Protocol.reply(format_args!("unexpected reply in state {state}: {reply}")));
    }

    /// Ends the connection for the reason that `reply` gives; what is under way or waits is settled with it.
    pub(super) fn end(&mut self, reply: &Reply) {
        self.outputs.retain(|output| matches!(output, Output::Outcome { .. }));
        let mut phase = self.state.phase();
        if let Some(running) = self.running.take() {
            let ended = self.state == State::Message && running.content.is_ended();
            phase = self.lose(running, phase, ended, reply);
        }
        for next in std::mem::take(&mut self.ahead) {
            self.lose(next, Phase::Mail, false, reply);
        }
        for next in std::mem::take(&mut self.waiting) {
            self.outputs.push_back(refused_with(&next, &bounded(reply.clone()), true));
        }
        if self.was_ready || self.quitting {
            return self.close();
        }
        self.state = State::Over;
        self.outputs.push_back(Output::Closed(End::Failed { phase, reply: bounded(reply.clone()) }));
    }

    /// Settles what was under way when the connection ended; returns the phase that the end belongs to. What has its end with
    /// the receiver may have arrived, whichever reply is missing.
    fn lose(&mut self, mut running: Running, phase: Phase, ended: bool, reply: &Reply) -> Phase {
        let is_fault = reply.code == 0;
        let chunk_sent = running.chunked && running.is_handed_out(self.handed_out);
        let phase = if chunk_sent && is_fault { Phase::EndOfData } else { phase };
        running.settle_rest(phase, reply, (chunk_sent || ended) && is_fault);
        self.running = Some(running);
        self.tell_outcome(true);
        phase
    }

    pub(super) fn close(&mut self) {
        self.state = State::Over;
        self.outputs.push_back(Output::Closed(End::Done));
    }
}
