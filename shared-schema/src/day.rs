//! UTC days, as quotas count them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A day, by how many passed since 1970-01-01.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Day(pub u64);

impl Day {
    /// The one of that time, Unix milliseconds.
    pub const fn of_ms(unix_ms: u64) -> Self {
        Self(unix_ms / 86_400_000)
    }

    /// The one before; the first has none.
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Year, month (1 to 12), day (1 to 31): Howard Hinnant's `civil_from_days`.
    pub const fn date(self) -> (u64, u64, u64) {
        let days = self.0.saturating_add(719_468);
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
        (year, month, day)
    }
}

impl fmt::Display for Day {
    /// The form of RFC 3339: `2026-11-29`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_told_by_its_date_and_begins_at_midnight_utc() {
        let dates = [(0, "1970-01-01"), (11_016, "2000-02-29"), (20_786, "2026-11-29"), (47_540, "2100-02-28")];
        for (day, date) in dates {
            assert_eq!(Day(day).to_string(), date);
            assert_eq!(Day::of_ms(day * 86_400_000), Day(day));
            assert_eq!(Day::of_ms((day + 1) * 86_400_000 - 1), Day(day));
        }
        assert_eq!(Day(47_541).to_string(), "2100-03-01", "no leap year");
    }
}
