//! The options of a fleet: where etcd is, and what this process does in it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use postrail_control_plane::store::{EtcdOptions, EtcdPassword, EtcdTls};
use postrail_schema::allocation::HostName;
use postrail_schema::keys;
use postrail_schema::limits::{ADDRESS_LEASE, ADDRESS_LEASE_MAX, ADDRESS_LEASE_MIN, CAPABILITIES_MAX, HOST_NICS_MAX};
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
    /// This host's name among the fleet's [default: the first label of --hostname, else of the system's name]
    #[arg(long, value_name = "NAME", requires = "etcd")]
    pub(crate) host_name: Option<String>,
    /// The region that this host is in: it serves the tenants of it and those without, and takes and keeps nothing of others
    #[arg(long, value_name = "NAME", requires = "etcd")]
    pub(crate) region: Option<String>,
    /// Interface that addresses may be put on (repeatable; the first one takes those whose source names none) [default:
    /// that of the default route]
    #[arg(long, value_name = "NAME", requires = "etcd")]
    pub(crate) nic: Vec<String>,
    /// The network brings addresses to the host that has them: nothing is put on an interface
    #[arg(long, requires = "etcd", conflicts_with = "nic")]
    pub(crate) routed: bool,
    /// Word that sources may ask of the hosts of their addresses, such as a network that is routed here (repeatable)
    #[arg(long, value_name = "WORD", requires = "etcd")]
    pub(crate) capability: Vec<String>,
    /// From when this host was heard last until its addresses may be others', 6 to 600 [default: 10]
    #[arg(long, value_name = "SECONDS", requires = "etcd")]
    pub(crate) lease: Option<u64>,
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
    pub(crate) cluster: String,
    /// `None`: both planes.
    pub(crate) role: Option<Role>,
    pub(crate) host_name: Option<HostName>,
    pub(crate) region: String,
    /// Interfaces for addresses, as told.
    pub(crate) nics: Vec<String>,
    pub(crate) routed: bool,
    pub(crate) capabilities: BTreeSet<String>,
    pub(crate) lease: Duration,
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
            nic: if self.nic.is_empty() { file.nic } else { self.nic },
            routed: self.routed || file.routed,
            capability: if self.capability.is_empty() { file.capability } else { self.capability },
            lease: self.lease.or(file.lease),
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
        let region = match self.region {
            Some(region) => HostName::new(region.clone()).with_context(|| format!("--region {region}"))?.to_string(),
            None => String::new(),
        };
        let user = match self.etcd_user {
            None => None,
            Some(user) => {
                let password = match self.etcd_password_file {
                    Some(file) => EtcdPassword::File(file),
                    None => EtcdPassword::Known(
                        environment(PASSWORD)
                            .with_context(|| {
                                format!("--etcd-user needs a password: in --etcd-password-file, or in {PASSWORD}")
                            })?
                            .into(),
                    ),
                };
                Some((user, password))
            }
        };
        if self.routed && !self.nic.is_empty() {
            bail!(
                "nic and routed contradict each other: addresses are put on an interface, or the network brings them"
            );
        }
        let lease = self.lease.map_or(ADDRESS_LEASE, Duration::from_secs);
        if !(ADDRESS_LEASE_MIN..=ADDRESS_LEASE_MAX).contains(&lease) {
            let (least, most) = (ADDRESS_LEASE_MIN.as_secs(), ADDRESS_LEASE_MAX.as_secs());
            bail!("lease {}: between {least} and {most} seconds", lease.as_secs());
        }
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
            cluster: cluster.to_string(),
            role: self.role,
            host_name: self.host_name.map(named).transpose()?,
            region,
            nics: bounded("nic", self.nic, HOST_NICS_MAX)?,
            routed: self.routed,
            capabilities: capabilities(self.capability)?,
            lease,
        }))
    }
}

fn bounded(option: &str, words: Vec<String>, max: usize) -> Result<Vec<String>> {
    match words.len() > max {
        true => bail!("--{option} is given {} times: at most {max}", words.len()),
        false => Ok(words),
    }
}

/// The words in the form in which sources ask for them.
fn capabilities(words: Vec<String>) -> Result<BTreeSet<String>> {
    let words = bounded("capability", words, CAPABILITIES_MAX)?;
    // A host's name allows a dot as well, which a source's word does not.
    let is_word = |word: &String| !word.contains('.') && HostName::new(word.clone()).is_ok();
    match words.iter().find(|word| !is_word(word)) {
        Some(word) => bail!("--capability {word}: a word has 1 to 63 of a-z, 0-9 and -, and no - at its ends"),
        None => Ok(words.into_iter().collect()),
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
        let (_, EtcdPassword::Known(password)) = fleet.etcd.user.expect("a user") else { panic!("it is in no file") };
        assert_eq!(password.as_str(), "POSTRAIL_ETCD_PASSWORD is secret");
    }

    #[test]
    fn what_a_host_says_of_addresses_is_checked() {
        let words = |word: &str| FleetOptions { capability: vec![word.to_owned()], ..options() };
        for wrong in [
            FleetOptions { lease: Some(5), ..options() },
            FleetOptions { lease: Some(601), ..options() },
            FleetOptions { routed: true, nic: vec!["eth0".to_owned()], ..options() },
            FleetOptions { nic: vec!["eth0".to_owned(); HOST_NICS_MAX + 1], ..options() },
            words("Net A"),
            words("net.a"),
        ] {
            assert!(wrong.clone().fleet(|_| None).is_err(), "{wrong:?}");
        }
        let fleet = words("net-a").fleet(|_| None).expect("good options").expect("a fleet");
        assert_eq!((fleet.lease, fleet.capabilities), (ADDRESS_LEASE, BTreeSet::from(["net-a".to_owned()])));
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
