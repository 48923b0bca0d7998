//! The options of a fleet: where etcd is, and what this process does in it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use postrail_control_plane::store::{EtcdOptions, EtcdTls};
use postrail_schema::allocation::HostName;
use postrail_schema::keys;
use serde::Deserialize;

/// Each may also stand in the file of `--config`, by the same name.
#[derive(ClapArgs, Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[command(next_help_heading = "Fleet (several hosts, joined by etcd)")]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct FleetOptions {
    /// Member of the etcd cluster that has the configuration (repeatable) [default: config.db in the data folder]
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(crate) etcd: Vec<String>,
    /// What this process runs [default: both planes]
    #[arg(long, value_enum, requires = "etcd")]
    pub(crate) role: Option<Role>,
    /// Which of several installations in one etcd [default: main]
    #[arg(long, value_name = "NAME", requires = "etcd")]
    pub(crate) cluster: Option<String>,
    /// This host's name among the fleet's [default: the first label of --hostname]
    #[arg(long, value_name = "NAME", requires = "etcd")]
    pub(crate) host_name: Option<String>,
    /// The region that this host is in
    #[arg(long, value_name = "NAME", requires = "etcd")]
    pub(crate) region: Option<String>,
    /// Who signed the certificates of etcd, PEM; for https URLs
    #[arg(long, value_name = "FILE", requires = "etcd")]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// Certificate to show to etcd, PEM
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// Private key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    pub(crate) etcd_key: Option<PathBuf>,
    /// User in etcd
    #[arg(long, value_name = "NAME", requires = "etcd")]
    pub(crate) etcd_user: Option<String>,
    /// File with the password of --etcd-user, or from POSTRAIL_ETCD_PASSWORD
    #[arg(long, value_name = "FILE", requires = "etcd_user")]
    pub(crate) etcd_password_file: Option<PathBuf>,
}

/// What a process of a fleet runs.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// The control API, the ledger and what reconciles
    ControlPlane,
    /// Submission, spool and delivery
    DataPlane,
}

/// This process's part in a fleet.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    pub(crate) etcd: EtcdOptions,
    /// `None`: both planes.
    pub(crate) role: Option<Role>,
    pub(crate) host_name: Option<HostName>,
    pub(crate) region: String,
}

impl Fleet {
    pub(crate) fn runs(&self, role: Role) -> bool {
        self.role.is_none_or(|only| only == role)
    }
}

impl FleetOptions {
    /// These where they say something, else those of the file.
    pub(crate) fn or(self, file: Self) -> Self {
        Self {
            etcd: if self.etcd.is_empty() { file.etcd } else { self.etcd },
            role: self.role.or(file.role),
            cluster: self.cluster.or(file.cluster),
            host_name: self.host_name.or(file.host_name),
            region: self.region.or(file.region),
            etcd_ca: self.etcd_ca.or(file.etcd_ca),
            etcd_cert: self.etcd_cert.or(file.etcd_cert),
            etcd_key: self.etcd_key.or(file.etcd_key),
            etcd_user: self.etcd_user.or(file.etcd_user),
            etcd_password_file: self.etcd_password_file.or(file.etcd_password_file),
        }
    }

    /// The part in a fleet that they describe; `None`: a process by itself.
    ///
    /// # Errors
    /// They contradict each other, or a secret cannot be read.
    pub(crate) fn fleet(self, environment: impl Fn(&str) -> Option<String>) -> Result<Option<Fleet>> {
        if self.etcd.is_empty() {
            if self != Self::default() {
                bail!("options of a fleet need etcd: name its members by --etcd");
            }
            return Ok(None);
        }
        if self.etcd_cert.is_some() != self.etcd_key.is_some() {
            bail!("etcd-cert and etcd-key belong together: name both or none");
        }
        let cluster = self.cluster.unwrap_or_else(|| "main".to_owned());
        // The rules of a host's name make a good part of a key as well.
        let cluster = HostName::new(cluster.clone()).with_context(|| format!("--cluster {cluster}"))?;
        let named = |name: String| HostName::new(name.clone()).with_context(|| format!("--host-name {name}"));
        let user = match self.etcd_user {
            None => None,
            Some(user) => {
                let password = match &self.etcd_password_file {
                    Some(file) => {
                        let text = std::fs::read_to_string(file);
                        let text = text.with_context(|| format!("cannot read {}", file.display()))?;
                        text.trim_end_matches(['\r', '\n']).to_owned()
                    }
                    None => environment(PASSWORD).with_context(|| {
                        format!("--etcd-user needs a password: in --etcd-password-file, or in {PASSWORD}")
                    })?,
                };
                Some((user, password.into()))
            }
        };
        let identity = self.etcd_cert.zip(self.etcd_key);
        if identity.is_some() && self.etcd_ca.is_none() {
            bail!("--etcd-cert needs --etcd-ca, by which the members are known");
        }
        Ok(Some(Fleet {
            etcd: EtcdOptions {
                endpoints: self.etcd,
                root: keys::root(cluster.as_str()),
                tls: self.etcd_ca.map(|ca| EtcdTls { ca, identity }),
                user,
            },
            role: self.role,
            host_name: self.host_name.map(named).transpose()?,
            region: self.region.unwrap_or_default(),
        }))
    }
}

const PASSWORD: &str = "POSTRAIL_ETCD_PASSWORD";

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> FleetOptions {
        FleetOptions { etcd: vec!["http://127.0.0.1:2379".to_owned()], ..FleetOptions::default() }
    }

    #[test]
    fn without_etcd_there_is_no_fleet_and_nothing_to_say_of_one() {
        assert!(FleetOptions::default().fleet(|_| None).expect("nothing was said").is_none());
        let only = FleetOptions { role: Some(Role::DataPlane), ..FleetOptions::default() };
        assert!(only.fleet(|_| None).is_err());
    }

    #[test]
    fn both_planes_run_unless_one_is_named() {
        let fleet = options().fleet(|_| None).expect("good options").expect("a fleet");
        assert!(fleet.runs(Role::DataPlane) && fleet.runs(Role::ControlPlane));
        assert_eq!(fleet.etcd.root, "/postrail/main/");
        let one = FleetOptions { role: Some(Role::DataPlane), cluster: Some("eu".to_owned()), ..options() };
        let fleet = one.fleet(|_| None).expect("good options").expect("a fleet");
        assert!(fleet.runs(Role::DataPlane) && !fleet.runs(Role::ControlPlane));
        assert_eq!(fleet.etcd.root, "/postrail/eu/");
    }

    #[test]
    fn a_password_comes_from_the_environment_or_is_asked_for() {
        let with = || FleetOptions { etcd_user: Some("postrail".to_owned()), ..options() };
        assert!(with().fleet(|_| None).is_err());
        let fleet = with().fleet(|name| Some(format!("{name} is secret"))).expect("good options").expect("a fleet");
        assert_eq!(fleet.etcd.user.expect("a user").1.as_str(), "POSTRAIL_ETCD_PASSWORD is secret");
    }

    #[test]
    fn a_name_that_cannot_be_part_of_a_key_is_refused() {
        for name in ["a/b", "", "A", "a b"] {
            let cluster = FleetOptions { cluster: Some(name.to_owned()), ..options() };
            assert!(cluster.fleet(|_| None).is_err(), "{name}");
            let host = FleetOptions { host_name: Some(name.to_owned()), ..options() };
            assert!(host.fleet(|_| None).is_err(), "{name}");
        }
    }
}
