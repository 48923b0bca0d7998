//! The options of `region`.

use clap::Subcommand;

const REGION_EXAMPLES: &str = "\
Examples:
  postrail region add eu --submission-host mail.eu.example.org
  postrail tenant add shop --region eu
  postrail up --etcd http://10.0.0.5:2379 --role data-plane --region eu --admin 10.0.0.2:8082";

#[derive(Subcommand, Debug)]
#[command(after_help = REGION_EXAMPLES)]
pub(crate) enum RegionCommand {
    /// Make a region: `postrail region add eu --submission-host mail.eu.example.org`
    Add {
        name: String,
        /// Where its tenants submit: hosts of other regions refuse them and name it
        #[arg(long, value_name = "HOST")]
        submission_host: String,
    },
    /// Regions and where their tenants submit: `postrail region list`
    List,
    /// One region: `postrail region show eu`
    Show { name: String },
    /// Have its tenants submit elsewhere: `postrail region set eu --submission-host mx.eu.example.org`
    Set {
        name: String,
        /// Where its tenants submit
        #[arg(long, value_name = "HOST")]
        submission_host: String,
    },
    /// Remove a region that no tenant is in: `postrail region remove eu`
    Remove { name: String },
}
