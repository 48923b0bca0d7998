//! The present time as text: RFC 3339 for results, RFC 5322 for the Date of mails. Always UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY_SECONDS: u64 = 86_400;

/// Now, such as `2026-11-23T10:11:12Z`.
pub(crate) fn now_rfc3339() -> String {
    let (date, time) = split(seconds());
    format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", date.0, date.1, date.2, time.0, time.1, time.2)
}

/// Now, such as `Mon, 23 Nov 2026 10:11:12 +0000`.
pub(crate) fn now_rfc5322() -> String {
    rfc5322(seconds())
}

fn rfc5322(seconds: u64) -> String {
    let ((year, month, day), (hour, minute, second)) = split(seconds);
    let weekday = DAYS[(seconds / DAY_SECONDS % 7) as usize];
    let month = MONTHS[(month - 1) as usize];
    format!("{weekday}, {day} {month} {year} {hour:02}:{minute:02}:{second:02} +0000")
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Date (year, month, day) and time (hour, minute, second) of so many seconds after 1970. The proleptic Gregorian
/// calendar, counted in eras of 400 years that begin in March, so that the leap day is the last of its year.
fn split(seconds: u64) -> ((u64, u64, u64), (u64, u64, u64)) {
    const ERA_DAYS: u64 = 146_097;
    /// Days from 0000-03-01 to 1970-01-01.
    const EPOCH: u64 = 719_468;
    let days = seconds / DAY_SECONDS + EPOCH;
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let second = seconds % DAY_SECONDS;
    ((year, month, day), (second / 3_600, second / 60 % 60, second % 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_have_their_dates() {
        assert_eq!(rfc5322(0), "Thu, 1 Jan 1970 00:00:00 +0000");
        assert_eq!(rfc5322(951_782_400), "Tue, 29 Feb 2000 00:00:00 +0000");
        assert_eq!(rfc5322(1_795_477_184), "Mon, 23 Nov 2026 23:39:44 +0000");
        assert_eq!(now_rfc3339().len(), "2026-11-23T10:11:12Z".len());
    }
}
