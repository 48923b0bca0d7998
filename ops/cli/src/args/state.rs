//! `postrail export`, `plan` and `apply`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::ApiOptions;

const EXPORT_EXAMPLES: &str = "\
Examples:
  postrail export > fleet.toml
  postrail export --secrets > backup.toml           hashes and sealed keys too; keep it as you keep the data folder
  postrail export --json | jq '.tenants | length'";

/// What the installation is to be, as one document.
#[derive(ClapArgs, Debug)]
#[command(after_help = EXPORT_EXAMPLES)]
pub(crate) struct ExportOptions {
    #[command(flatten)]
    pub(crate) api: ApiOptions,
    /// With the hashes of secrets, and DKIM keys that only this installation's master key opens
    #[arg(long)]
    pub(crate) secrets: bool,
}

const PLAN_EXAMPLES: &str = "\
Examples:
  postrail plan -f fleet.toml
  generate-fleet | postrail plan -f - --json

Exit status: 0 nothing would change, 3 something would, 1 the document cannot be applied.";

#[derive(ClapArgs, Debug)]
#[command(after_help = PLAN_EXAMPLES)]
pub(crate) struct PlanOptions {
    #[command(flatten)]
    pub(crate) api: ApiOptions,
    /// The document, TOML or JSON; - for standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
}

const APPLY_EXAMPLES: &str = "\
Examples:
  postrail apply -f fleet.toml
  postrail apply -f fleet.toml --yes                without asking
  postrail import -f backup.toml                    the same, of an `export --secrets`

A kind of resource that the document has ([[tenants]], [[domains]], …) is whole: what it
does not name of that kind is removed. A kind that it does not have stays as it is.
Secrets and keys that it leaves out stay as they are.";

#[derive(ClapArgs, Debug)]
#[command(after_help = APPLY_EXAMPLES)]
pub(crate) struct ApplyOptions {
    #[command(flatten)]
    pub(crate) plan: PlanOptions,
    /// Apply without asking
    #[arg(long)]
    pub(crate) yes: bool,
}
