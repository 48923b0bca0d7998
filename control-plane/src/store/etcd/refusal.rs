//! Why etcd does not let us in, in words for who starts a host.
//!
//! etcd and TLS say it in words only, which are stable over the versions that we know (3.4 to 3.6); what is not known here
//! is told as it came.

use std::error::Error as _;

use etcd_client::Error;

/// What to do, where `error` is a refusal; `root`: that of the cluster's keys; `is_anonymous`: we have TLS and show no
/// certificate.
pub(super) fn refusal(error: &Error, root: &str, is_anonymous: bool) -> Option<String> {
    let told = told(error);
    let has = |words: &[&str]| words.iter().any(|word| told.contains(word));
    if has(&["UnknownIssuer", "BadSignature", "NotValidForName", "certificate expired", "Expired"]) {
        return Some(
            "the certificate that it shows is not of who --etcd-ca names, of this address, or of this time".to_owned(),
        );
    }
    // Who wants a certificate may just close the connection where none is shown, also in the middle of our writing.
    let is_closed = is_anonymous && has(&["connection closed", "broken pipe", "ConnectionReset"]);
    if is_closed || has(&["CertificateRequired", "BadCertificate", "UnknownCA", "received fatal alert"]) {
        return Some("it wants a certificate that it trusts: name one by --etcd-cert and --etcd-key".to_owned());
    }
    if has(&["authentication failed, invalid user ID or password", "user name not found"]) {
        return Some(
            "the user or its password is wrong: see --etcd-user, and --etcd-password-file or POSTRAIL_ETCD_PASSWORD"
                .to_owned(),
        );
    }
    if has(&["user name is empty"]) {
        return Some("it wants a user: name one by --etcd-user".to_owned());
    }
    if has(&["authentication is not enabled"]) {
        return Some("it knows no users: leave --etcd-user out, or enable authentication in etcd".to_owned());
    }
    has(&["permission denied"]).then(|| {
        format!(
            "the user (--etcd-user, else the name in --etcd-cert) may not read and write there: `etcdctl role grant-permission ROLE --prefix=true readwrite {root}`"
        )
    })
}

/// Whether the user that a connection was made with, or the password, is not valid any more.
pub(super) fn is_of_user(error: &Error) -> bool {
    let told = told(error);
    let words = [
        "authentication failed, invalid user ID or password",
        "user name not found",
        "invalid auth token",
        "revision of auth store is old",
        "user name is empty",
    ];
    words.iter().any(|word| told.contains(word))
}

/// Whether etcd takes no writes until somebody makes room.
pub(super) fn is_full(error: &Error) -> bool {
    // Words of 3.4 to 3.6, of writes and of leases.
    matches!(error, Error::GRpcStatus(status) if status.message().contains("database space exceeded"))
}

/// What an error and its causes say.
fn told(error: &Error) -> String {
    let mut told = error.to_string();
    let mut cause = match error {
        Error::GRpcStatus(status) => status.source(),
        Error::TransportError(error) => error.source(),
        _ => None,
    };
    while let Some(error) = cause {
        told.push_str(&format!(": {error} {error:?}"));
        cause = error.source();
    }
    told
}
