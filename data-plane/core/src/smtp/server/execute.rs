//! What each command does, in the order of a session: greeting, TLS, AUTH, envelope, content.

use postrail_schema::ids::MessageId;
use postrail_schema::limits::{
    JOB_RECIPIENTS_MAX, MESSAGE_LINE_BYTES_MAX, SMTP_AUTH_FAILURES_MAX, SMTP_IDLE_COMMANDS_MAX,
};

use super::auth::{self, AuthError, Step};
use super::command::{Command, CommandError};
use super::content::{ContentReader, Defect};
use super::session::{Asked, Chunk, Greeting, OpenTransaction, Phase, Session};
use super::{CloseReason, MailCommand, Mechanism, Question, Transaction};
use crate::mail::{Envelope, ForwardPath};
use crate::smtp::Reply;

impl Session {
    /// Runs one command line.
    pub(super) fn command(&mut self, line: &str) {
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(error @ CommandError::ChunkSize) => return self.end(&error.reply(), CloseReason::Framing),
            Err(error) => return self.refuse(&error.reply()),
        };
        if !matches!(command, Command::Rcpt(_) | Command::Data | Command::Bdat { .. } | Command::Quit) {
            self.idle_commands += 1;
            if self.idle_commands > SMTP_IDLE_COMMANDS_MAX {
                let reply = Reply::enhanced(421, 7, 0, "Too many commands without a message");
                return self.end(&reply, CloseReason::IdleCommands);
            }
        }
        match command {
            Command::Auth { mechanism, initial } => self.auth(mechanism, initial),
            Command::Bdat { bytes, last } => self.bdat(bytes, last),
            Command::Data => self.data(),
            Command::Ehlo(name) => self.ehlo(name),
            Command::Expn => self.refuse(&Reply::enhanced(502, 5, 1, "EXPN is not offered")),
            Command::Helo(name) => self.helo(name),
            Command::Help => self.reply(&Reply::enhanced(214, 0, 0, HELP)),
            Command::Mail(mail) => self.mail(mail),
            Command::Noop => self.reply(&ok("Ok")),
            Command::Quit => self.end(&Reply::enhanced(221, 0, 0, "Bye"), CloseReason::Quit),
            Command::Rcpt(path) => self.rcpt(path),
            Command::Rset => {
                self.transaction = None;
                self.reply(&ok("Ok"));
            }
            Command::StartTls => self.starttls(),
            Command::Vrfy => self.reply(&Reply::enhanced(252, 0, 0, "Not verified; send a message to find out")),
        }
    }

    // --- greeting and TLS ---------------------------------------------------------------------------------------------

    fn ehlo(&mut self, name: &str) {
        self.transaction = None;
        self.greeting = Some(Greeting { name: name.to_owned(), esmtp: true });
        let mut text = format!("{} greets [{}]", self.config.hostname, self.config.peer.ip());
        text.push_str("\nPIPELINING\n8BITMIME\nSMTPUTF8\nCHUNKING\nDSN\nENHANCEDSTATUSCODES\nHELP");
        text.push_str(&format!("\nSIZE {}", self.config.message_bytes_max));
        if self.offers_starttls() {
            text.push_str("\nSTARTTLS");
        }
        if self.offers_auth() {
            text.push_str("\nAUTH PLAIN LOGIN");
        }
        self.reply(&Reply::plain(250, text));
    }

    fn helo(&mut self, name: &str) {
        self.transaction = None;
        self.greeting = Some(Greeting { name: name.to_owned(), esmtp: false });
        let text = self.config.hostname.to_string();
        self.reply(&Reply::plain(250, text));
    }

    const fn offers_starttls(&self) -> bool {
        self.config.starttls && self.tls.is_none()
    }

    const fn offers_auth(&self) -> bool {
        self.tls.is_some() || self.config.auth_without_tls && !self.config.requires_tls
    }

    fn starttls(&mut self) {
        if self.tls.is_some() {
            return self.refuse(&sequence("TLS is active already"));
        }
        if !self.config.starttls {
            return self.refuse(&Reply::enhanced(502, 5, 1, "STARTTLS is not offered"));
        }
        if self.transaction.is_some() {
            return self.refuse(&sequence("STARTTLS within a transaction"));
        }
        self.reply(&Reply::enhanced(220, 0, 0, "Ready to start TLS"));
        self.start_tls();
    }

    // --- AUTH ---------------------------------------------------------------------------------------------------------

    fn auth(&mut self, mechanism: Mechanism, initial: Option<&str>) {
        if !self.offers_auth() {
            return self.refuse(&Reply::enhanced(538, 7, 11, "AUTH needs TLS: give STARTTLS first"));
        }
        if !self.greeting.as_ref().is_some_and(|greeting| greeting.esmtp) {
            return self.refuse(&sequence("Give EHLO first"));
        }
        if self.username.is_some() {
            return self.refuse(&sequence("Authenticated already"));
        }
        if self.transaction.is_some() {
            return self.refuse(&sequence("AUTH within a transaction"));
        }
        if self.auth_failures >= SMTP_AUTH_FAILURES_MAX {
            let reply = Reply::enhanced(421, 7, 0, "Too many failed authentications");
            return self.end(&reply, CloseReason::AuthFailures);
        }
        self.auth_step(auth::begin(mechanism, initial));
    }

    pub(super) fn auth_step(&mut self, step: Result<Step, AuthError>) {
        match step {
            Ok(Step::Challenge(exchange, text)) => {
                self.reply(&Reply::plain(334, text));
                self.phase = Phase::Auth(exchange);
            }
            Ok(Step::Credentials { mechanism, username, secret }) => self.ask(
                Asked::Authenticate { username: username.clone() },
                Question::Authenticate { mechanism, username, secret },
            ),
            Err(error) => self.refuse(&error.reply()),
        }
    }

    pub(super) fn authenticated(&mut self, username: String) {
        self.username = Some(username);
        self.reply(&Reply::enhanced(235, 7, 0, "Authentication succeeded"));
    }

    // --- envelope -----------------------------------------------------------------------------------------------------

    fn mail(&mut self, mail: MailCommand) {
        if self.greeting.is_none() {
            return self.refuse(&sequence("Give EHLO first"));
        }
        if self.config.requires_tls && self.tls.is_none() {
            return self.refuse(&Reply::enhanced(530, 7, 0, "TLS is required: give STARTTLS first"));
        }
        if !self.is_known() {
            return self.refuse(&self.authentication_required());
        }
        if self.transaction.is_some() {
            return self.refuse(&sequence("A transaction is open: end it, or give RSET"));
        }
        if mail.size.is_some_and(|size| size > self.config.message_bytes_max as u64) {
            return self.refuse(&self.too_big());
        }
        self.ask(Asked::Sender(mail.clone()), Question::Sender(mail));
    }

    pub(super) fn sender_taken(&mut self, mail: MailCommand) {
        let MailCommand { reverse_path, body, smtp_utf8, size, ret, envid } = mail;
        let envelope = Envelope { reverse_path, body, smtp_utf8, ret, envid, recipients: Vec::new() };
        self.transaction = Some(OpenTransaction { envelope, size, ..OpenTransaction::default() });
        self.reply(&Reply::enhanced(250, 1, 0, "Sender ok"));
    }

    fn rcpt(&mut self, path: ForwardPath) {
        let Some(transaction) = self.transaction.as_mut() else {
            return self.refuse_without_mail();
        };
        if transaction.chunks.is_some() || transaction.failed {
            return self.refuse(&sequence("RCPT after BDAT"));
        }
        transaction.recipients_tried += 1;
        if !transaction.envelope.smtp_utf8 && !path.address.as_str().is_ascii() {
            return self.refuse(&CommandError::Utf8Address.reply());
        }
        if transaction.envelope.recipients.len() >= JOB_RECIPIENTS_MAX
            || transaction.recipients_tried > 2 * JOB_RECIPIENTS_MAX
        {
            let reply = Reply::enhanced(452, 5, 3, format!("A message has at most {JOB_RECIPIENTS_MAX} recipients"));
            // A long list gets this reply for each one too many; only then it is an error.
            return if transaction.recipients_tried > 2 * JOB_RECIPIENTS_MAX {
                self.refuse(&reply)
            } else {
                self.reply(&reply)
            };
        }
        self.ask(Asked::Recipient(path.clone()), Question::Recipient(path));
    }

    pub(super) fn recipient_taken(&mut self, path: ForwardPath) {
        if let Some(transaction) = self.transaction.as_mut() {
            transaction.envelope.recipients.push(path);
            self.reply(&Reply::enhanced(250, 1, 5, "Recipient ok"));
        }
    }

    /// The reply of whoever was asked. Only failed authentications count here: what policy refuses is no error of form.
    pub(super) fn refused(&mut self, asked: &Asked, reply: &Reply) {
        match asked {
            Asked::Authenticate { .. } if reply.is_permanent() => self.auth_failures += 1,
            Asked::Message => self.transaction = None,
            Asked::Authenticate { .. } | Asked::Sender(_) | Asked::Recipient(_) => {}
        }
        if reply.code == 421 {
            self.end(reply, CloseReason::Refused);
        } else {
            self.reply(reply);
        }
    }

    // --- content ------------------------------------------------------------------------------------------------------

    fn data(&mut self) {
        let bytes_max = self.config.message_bytes_max;
        let Some(transaction) = self.transaction.as_ref() else {
            return self.refuse_without_mail();
        };
        if transaction.chunks.is_some() || transaction.failed {
            return self.refuse(&sequence("DATA after BDAT"));
        }
        if transaction.envelope.recipients.is_empty() {
            return self.refuse(&no_recipients());
        }
        self.phase = Phase::Data(ContentReader::data(bytes_max, transaction.size));
        self.reply(&Reply::plain(354, "End data with <CR><LF>.<CR><LF>"));
    }

    /// RFC 3030. The octets of a chunk follow its command whatever we think of it, so a refused chunk is read too.
    fn bdat(&mut self, bytes: u64, last: bool) {
        let bytes_max = self.config.message_bytes_max;
        let refusal = match self.transaction.as_mut() {
            None if self.username.is_none() => Some(self.authentication_required()),
            None => Some(sequence("Give MAIL first")),
            Some(transaction) if transaction.failed => Some(sequence("A chunk was refused: give RSET")),
            Some(transaction) if transaction.envelope.recipients.is_empty() => {
                transaction.failed = true;
                Some(no_recipients())
            }
            Some(transaction) => {
                let estimate = transaction.size.or(Some(bytes));
                transaction.chunks.get_or_insert_with(|| ContentReader::chunks(bytes_max, estimate));
                None
            }
        };
        self.phase = Phase::Chunk(Chunk { bytes, remaining: bytes, last, refusal });
        if bytes == 0 {
            self.chunk_ended();
        }
    }

    pub(super) fn chunk_ended(&mut self) {
        let Phase::Chunk(chunk) = std::mem::replace(&mut self.phase, Phase::Command) else { return };
        if let Some(refusal) = chunk.refusal {
            return self.refuse(&refusal);
        }
        let Some(transaction) = self.transaction.as_mut() else { return };
        if chunk.last {
            if let Some(reader) = transaction.chunks.take() {
                self.content_ended(reader);
            }
            return;
        }
        match transaction.chunks.as_ref().and_then(ContentReader::defect) {
            None => self.reply(&ok(&format!("{} octets received", chunk.bytes))),
            Some(defect) => {
                transaction.failed = true;
                transaction.chunks = None;
                self.refuse(&self.defect_reply(defect));
            }
        }
    }

    /// The message is whole: asks whether it is accepted.
    pub(super) fn content_ended(&mut self, reader: ContentReader) {
        let Some(transaction) = self.transaction.take() else { return };
        match reader.finish() {
            Err(defect) => self.refuse(&self.defect_reply(defect)),
            Ok(content) => {
                let greeting = self.greeting.clone();
                let (helo, esmtp) = greeting.map_or_else(Default::default, |greeting| (greeting.name, greeting.esmtp));
                let (tls, username) = (self.tls.clone(), self.username.clone());
                let envelope = transaction.envelope;
                self.ask_message(Transaction { envelope, content, helo, esmtp, tls, username });
            }
        }
    }

    pub(super) fn message_accepted(&mut self, id: MessageId) {
        self.idle_commands = 0;
        self.reply(&ok(&format!("Ok: queued as {id}")));
    }

    // --- refusals -----------------------------------------------------------------------------------------------------

    fn refuse_without_mail(&mut self) {
        let reply = if self.is_known() { sequence("Give MAIL first") } else { self.authentication_required() };
        self.refuse(&reply);
    }

    const fn is_known(&self) -> bool {
        self.username.is_some() || self.config.is_trusted
    }

    fn authentication_required(&self) -> Reply {
        let text = if self.offers_auth() {
            "Authentication required"
        } else {
            "Authentication required, and AUTH needs TLS: give STARTTLS first"
        };
        Reply::enhanced(530, 7, 0, text)
    }

    fn too_big(&self) -> Reply {
        Reply::enhanced(552, 3, 4, format!("A message has at most {} octets", self.config.message_bytes_max))
    }

    fn defect_reply(&self, defect: Defect) -> Reply {
        match defect {
            Defect::BareCr | Defect::BareLf => {
                Reply::enhanced(550, 6, 0, "bare CR or LF in the message: lines end with CR and LF")
            }
            Defect::LineTooLong => {
                Reply::enhanced(550, 6, 0, format!("a line is longer than {MESSAGE_LINE_BYTES_MAX} octets"))
            }
            Defect::TooBig => self.too_big(),
        }
    }
}

fn ok(text: &str) -> Reply {
    Reply::enhanced(250, 0, 0, text)
}

fn sequence(text: &str) -> Reply {
    Reply::enhanced(503, 5, 1, text)
}

fn no_recipients() -> Reply {
    Reply::enhanced(554, 5, 1, "No valid recipients")
}

const HELP: &str = "EHLO HELO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT\nSubmission by RFC 6409: TLS, AUTH, then MAIL";
