//! The options of what operators decide about mail: `retry-policy`, `routing-rule`, `tls-rule`, and `explain`, which shows it.

use clap::{Args as ClapArgs, Subcommand};

use super::ApiOptions;

const RETRY_EXAMPLES: &str = "\
Examples:
  postrail retry-policy add codes --class transactional --first 10s --longest 2m --expiry 15m
  postrail retry-policy add newsletter --tenant shop --class marketing --expiry 12h
  postrail retry-policy add slow --to slow.example --first 30m --factor 1 --longest 30m

Delays are looked up after every attempt: a change counts from the next one on. Expiry is fixed when
a mail is accepted. Each is answered by the most specific policy that says it: recipient domain,
site, sending domain, tenant, class, in this order. Where none does: 5 minutes, x 1.5, up to 4 hours;
given up after 3 days, transactional mail after 1 day.";

#[derive(Subcommand, Debug)]
#[command(after_help = RETRY_EXAMPLES)]
pub(crate) enum RetryPolicyCommand {
    /// Make a policy: `postrail retry-policy add codes --class transactional --first 10s --expiry 15m`
    Add(RetryPolicyValue),
    /// Replace a policy; what is not said is as if it were new:
    /// `postrail retry-policy set codes --class transactional --first 20s`
    Set(RetryPolicyValue),
    /// Policies and the mail that they are about: `postrail retry-policy list`
    List,
    /// One policy: `postrail retry-policy show codes`
    Show { name: String },
    /// Remove a policy; the next less specific one counts: `postrail retry-policy remove codes`
    Remove { name: String },
}

const ROUTING_EXAMPLES: &str = "\
Examples:
  postrail pool set bulk --source out2 --source out3 --class marketing
  postrail routing-rule add letters --class marketing --pool bulk
  postrail routing-rule add big --to big.example --tenant shop --pool shop-big
  postrail explain --from shop.example --to big.example --class marketing

Of all rules about a mail the most specific counts whose pool may carry it: recipient domain, site,
sending domain, tenant, class, in this order. A sending domain's own pool (`postrail domain assign`)
is as a rule about that domain; the pool `default` comes last. Where mail goes to is another matter:
`postrail route`.";

#[derive(Subcommand, Debug)]
#[command(after_help = ROUTING_EXAMPLES)]
pub(crate) enum RoutingRuleCommand {
    /// Have a pool carry some mail: `postrail routing-rule add letters --class marketing --pool bulk`
    Add(RoutingRuleValue),
    /// Replace a rule: `postrail routing-rule set letters --class marketing --pool default`
    Set(RoutingRuleValue),
    /// Rules, their mail and their pools: `postrail routing-rule list`
    List,
    /// One rule: `postrail routing-rule show letters`
    Show { name: String },
    /// Remove a rule; the next less specific one counts: `postrail routing-rule remove letters`
    Remove { name: String },
}

#[derive(ClapArgs, Debug)]
pub(crate) struct RoutingRuleValue {
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) mail: MatchOptions,
    /// The pool that carries it
    #[arg(long)]
    pub(crate) pool: String,
}

const TLS_EXAMPLES: &str = "\
Examples:
  postrail tls-rule add all --level required
  postrail tls-rule add bank --to bank.example --level verified --host .bank.example --minimum-version 1.3
  postrail tls-rule add codes --tenant shop --class transactional --level verified
  postrail tls-rule add old --to old.example --level opportunistic
  postrail explain --from shop.example --to bank.example

Mail whose rules the receiver cannot meet waits and says so (`postrail trace`); it is never sent
weaker. Of the rules about a mail those hold that no narrower rule overrules (one that names all
that they name, and more); of several the strictest, setting by setting. So `old` above is an
exception to `all`, and none to `codes`. Without rules: TLS where the receiver offers it.";

#[derive(Subcommand, Debug)]
#[command(after_help = TLS_EXAMPLES)]
pub(crate) enum TlsRuleCommand {
    /// Demand something of connections: `postrail tls-rule add bank --to bank.example --level verified`
    Add(TlsRuleValue),
    /// Replace a rule; what is not said is as if it were new: `postrail tls-rule set bank --to bank.example --level required`
    Set(TlsRuleValue),
    /// Rules, their mail and what they demand: `postrail tls-rule list`
    List,
    /// One rule: `postrail tls-rule show bank`
    Show { name: String },
    /// Remove a rule; wider ones hold again: `postrail tls-rule remove bank`
    Remove { name: String },
}

#[derive(ClapArgs, Debug)]
pub(crate) struct TlsRuleValue {
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) mail: MatchOptions,
    /// opportunistic, required (any certificate) or verified (a known authority, valid for the MX host)
    #[arg(long)]
    pub(crate) level: String,
    /// 1.2 or 1.3
    #[arg(long, value_name = "VERSION")]
    pub(crate) minimum_version: Option<String>,
    /// An MX host that may be used, or a suffix that begins with a dot (repeatable); with --level verified
    #[arg(long = "host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
}

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  postrail explain --from shop.example --to gmail.com
  postrail explain --from shop.example --tenant shop --to gmail.com
  postrail explain --from shop.example --to big.example --class marketing --site mx1.big.example,mx2.big.example
  postrail explain --from shop.example --to gmail.com --json | jq -r .pool.because";

#[derive(ClapArgs, Debug)]
#[command(after_help = EXPLAIN_EXAMPLES)]
pub(crate) struct ExplainOptions {
    #[command(flatten)]
    pub(crate) api: ApiOptions,
    /// The sending domain
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) from: String,
    /// The tenant whose sending domain it is, where several have one of that name; else the first of them
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// The recipient domain
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) to: String,
    /// transactional, person_to_person or marketing
    #[arg(long, default_value = "transactional")]
    pub(crate) class: String,
    /// The site of the recipient domain, as `postrail queue` names it, for what depends on it
    #[arg(long, value_name = "HOST[,HOST]")]
    pub(crate) site: Option<String>,
}

/// Which mail something is about; all that is said has to be true of it.
#[derive(ClapArgs, Debug)]
pub(crate) struct MatchOptions {
    /// Mail to this recipient domain
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) to: Option<String>,
    /// Mail to domains with these MX hosts, as `postrail queue` names the site
    #[arg(long, value_name = "HOST[,HOST]")]
    pub(crate) site: Option<String>,
    /// Mail from this sending domain
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) from: Option<String>,
    /// Mail of this tenant
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Mail of this class: transactional, person_to_person, marketing
    #[arg(long)]
    pub(crate) class: Option<String>,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct RetryPolicyValue {
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) mail: MatchOptions,
    /// Until the second attempt, such as 90s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) first: Option<u32>,
    /// Each delay by the one before it, such as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = percent)]
    pub(crate) factor: Option<u32>,
    /// The longest delay
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) longest: Option<u32>,
    /// From acceptance until the mail is given up; not with --to or --site
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) expiry: Option<u32>,
}

/// Seconds of `90`, `90s`, `5m`, `4h` or `3d`.
fn seconds(text: &str) -> Result<u32, String> {
    let told = || format!("{text} is no time: write a whole number with s, m, h or d, such as 90s, 5m, 4h, 3d");
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3_600),
        Some((at, 'd')) => (&text[..at], 86_400),
        _ => (text, 1),
    };
    number.parse::<u32>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(told)
}

/// Percent of a factor.
fn percent(text: &str) -> Result<u32, String> {
    let factor = text.parse::<f64>().ok().filter(|factor| (0.0..=1_000.0).contains(factor));
    let factor = factor.ok_or_else(|| format!("{text} is no factor: write a number such as 1.5"))?;
    Ok((factor * 100.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_factors_are_read_or_refused_with_an_example() {
        let read: Vec<_> = ["90", "90s", "5m", "4h", "3d"].map(|text| seconds(text).unwrap_or(0)).to_vec();
        assert_eq!(read, [90, 90, 300, 14_400, 259_200]);
        for wrong in ["", "m", "1.5h", "-3s", "5w", "99999999d"] {
            assert!(seconds(wrong).is_err_and(|told| told.contains("such as 90s")), "{wrong}");
        }
        assert_eq!((percent("1.5"), percent("2")), (Ok(150), Ok(200)));
        assert!(percent("x").is_err() && percent("NaN").is_err());
    }
}
