//! Axes: where a value stands between two ends, and which ticks are round.

use super::text::round;

/// One axis. Values outside of it stand at its ends.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Scale {
    /// From 0.
    Linear { max: f64 },
    /// Seconds since the start.
    Seconds { max: f64 },
    /// The runs of a history, from 1.
    Runs { count: u32 },
    /// By powers of ten.
    Log { min: f64, max: f64 },
    /// Percentiles, each nine as wide as the last; `top` is the highest below 100, and 100 stands at the end.
    Percentile { top: f64 },
}

impl Scale {
    /// A linear axis that holds `values`, with a round end.
    pub(crate) fn linear(values: impl Iterator<Item = f64>) -> Self {
        let max = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let step = step(max);
        Self::Linear { max: if max > 0.0 { (max / step).ceil() * step } else { 1.0 } }
    }

    pub(crate) fn seconds(values: impl Iterator<Item = f64>) -> Self {
        let max = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        Self::Seconds { max: if max > 0.0 { max } else { 1.0 } }
    }

    pub(crate) fn runs(count: usize) -> Self {
        Self::Runs { count: u32::try_from(count).unwrap_or(u32::MAX) }
    }

    /// A logarithmic axis over the powers of ten around `values`; those that are 0 or less stand at its lower end.
    pub(crate) fn log(values: impl Iterator<Item = f64>) -> Self {
        let positive = values.filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = positive.fold((f64::MAX, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        if high <= 0.0 {
            return Self::Log { min: 0.1, max: 10.0 };
        }
        let min = 10_f64.powf(low.max(1e-6).log10().floor());
        let max = 10_f64.powf(high.log10().ceil());
        Self::Log { min, max: if max > min { max } else { min * 10.0 } }
    }

    /// An axis up to the highest percentile of `values` that is below 100.
    pub(crate) fn percentile(values: impl Iterator<Item = f64>) -> Self {
        let top = values.filter(|value| *value < 99.9999).fold(99.0, f64::max);
        Self::Percentile { top }
    }

    /// Where `value` stands, 0 to 1.
    pub(crate) fn place(&self, value: f64) -> f64 {
        let part = match *self {
            Self::Linear { max } | Self::Seconds { max } => value / max,
            // Half a place of room on either side.
            Self::Runs { count } => (value - 0.5) / f64::from(count.max(1)),
            Self::Log { min, max } => (value.max(min) / min).log10() / (max / min).log10(),
            Self::Percentile { top } => nines(value.min(top)) / nines(top),
        };
        if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 }
    }

    /// Values and their labels.
    pub(crate) fn ticks(&self) -> Vec<(f64, String)> {
        match *self {
            Self::Linear { max } => {
                let step = step(max);
                let count = (max / step).round() as u32;
                (0..=count).map(|index| f64::from(index) * step).map(|value| (value, round(value))).collect()
            }
            Self::Seconds { max } => {
                let step = seconds_step(max);
                let count = (max / step).floor() as u32;
                (0..=count).map(|index| f64::from(index) * step).map(|value| (value, seconds(value, max))).collect()
            }
            Self::Runs { count } => {
                let step = count.div_ceil(RUN_LABELS_MAX).max(1);
                (1..=count).step_by(step as usize).map(|run| (f64::from(run), run.to_string())).collect()
            }
            Self::Log { min, max } => {
                let count = (max / min).log10().round() as i32;
                (0..=count).map(|index| min * 10_f64.powi(index)).map(|value| (value, round(value))).collect()
            }
            Self::Percentile { top } => [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999]
                .into_iter()
                .filter(|percentile| *percentile <= top + 1e-9)
                .map(|percentile| (percentile, format!("{percentile}%")))
                .collect(),
        }
    }
}

/// How many nines: 90 is 1, 99 is 2.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile.clamp(0.0, 99.999_999) / 100.0).log10()
}

/// A round step that divides `max` into about four.
fn step(max: f64) -> f64 {
    let rough = (max / 4.0).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough * 0.999);
    factor.unwrap_or(10.0) * power
}

/// Labels of an axis of runs.
const RUN_LABELS_MAX: u32 = 20;

fn seconds_step(max: f64) -> f64 {
    const STEPS: [f64; 12] = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0];
    if max < 4.0 {
        return step(max);
    }
    STEPS.into_iter().find(|step| max / step <= 7.0).unwrap_or_else(|| step(max))
}

fn seconds(value: f64, max: f64) -> String {
    if max < 180.0 {
        return format!("{} s", round(value));
    }
    let whole = value.round() as u64;
    if max < 3.0 * 3_600.0 {
        return format!("{}:{:02}", whole / 60, whole % 60);
    }
    format!("{}:{:02} h", whole / 3_600, whole / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<String> {
        scale.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn linear_ends_are_round() {
        let scale = Scale::linear([3.0, 2_913.0, f64::NAN].into_iter());
        assert_eq!(scale, Scale::Linear { max: 3_000.0 });
        assert_eq!(labels(&scale), ["0", "1,000", "2,000", "3,000"]);
        assert_eq!(Scale::linear([].into_iter()), Scale::Linear { max: 1.0 });
        assert_eq!(scale.place(1_500.0), 0.5);
        assert_eq!((scale.place(-1.0), scale.place(f64::NAN), scale.place(9e9)), (0.0, 0.0, 1.0));
    }

    #[test]
    fn logarithmic_ends_are_powers_of_ten() {
        let scale = Scale::log([0.0, 0.4, 120.0].into_iter());
        assert_eq!(labels(&scale), ["0.1", "1", "10", "100", "1,000"]);
        assert!((scale.place(10.0) - 0.5).abs() < 1e-9);
        assert_eq!(scale.place(0.0), 0.0);
    }

    #[test]
    fn each_nine_is_as_wide_as_the_last() {
        let scale = Scale::percentile([50.0, 90.0, 99.9, 100.0].into_iter());
        assert!((scale.place(90.0) - 1.0 / 3.0).abs() < 1e-6);
        assert!((scale.place(99.0) - 2.0 / 3.0).abs() < 1e-6);
        assert_eq!(scale.place(100.0), 1.0);
        assert_eq!(labels(&scale), ["0%", "50%", "90%", "99%", "99.9%"]);
    }

    #[test]
    fn runs_stand_in_the_middle_of_their_places() {
        let scale = Scale::runs(4);
        assert_eq!((scale.place(1.0), scale.place(4.0)), (0.125, 0.875));
        assert_eq!(labels(&scale), ["1", "2", "3", "4"]);
        assert!(Scale::runs(1_000).ticks().len() <= 20);
    }

    #[test]
    fn long_times_are_told_in_minutes() {
        assert_eq!(labels(&Scale::seconds([600.0].into_iter())), ["0:00", "2:00", "4:00", "6:00", "8:00", "10:00"]);
        assert_eq!(labels(&Scale::seconds([30.0].into_iter())).last().map(String::as_str), Some("30 s"));
    }
}
