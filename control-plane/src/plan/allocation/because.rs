//! Why an address is where it is, in words for the operator.

use std::net::IpAddr;

use postrail_schema::allocation::{HostName, Standing};

use super::assign::reasons;
use super::{Allocation, Fleet};

/// The words for an address that `holder` has.
pub fn because(fleet: &Fleet, allocation: &Allocation, address: IpAddr, holder: &HostName) -> String {
    let Some(demand) = fleet.addresses.get(&address) else { return "no source has it any more".to_owned() };
    let leaves = allocation
        .grants()
        .find(|(host, grant)| *host == holder && grant.address == address && grant.standing == Standing::Releasing);
    if let Some((_, grant)) = leaves {
        return match &grant.next {
            Some(next) if next == holder => "it is asked back, and comes again in another way".to_owned(),
            Some(next) => format!("it is asked back for {next}, and ends what is in flight"),
            None => "it is asked back, and no other host may have it yet".to_owned(),
        };
    }
    if demand.fixed.as_ref() == Some(holder) {
        return "its source is fixed to this host".to_owned();
    }
    let (others, why_not) = reasons(fleet, demand, holder);
    match others {
        0 if why_not.is_empty() => "there is no other host".to_owned(),
        0 => format!("no other host may have it ({})", why_not.join("; ")),
        1 => "it was here, and moving it to the other host that may have it would not level its pools".to_owned(),
        others => {
            format!("it was here, and moving it to one of {others} others that may have it would not level its pools")
        }
    }
}
