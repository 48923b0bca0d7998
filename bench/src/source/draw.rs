//! Numbers drawn from a distribution, by a mail's number and not by chance: two runs of a plan send the same mails.
//!
//! A distribution is a table of equally likely values, made once; a draw is a hash and a look.

/// Equally likely values of a table.
const VALUES: usize = 1 << 14;

/// Values to draw.
#[derive(Clone, PartialEq, Debug)]
pub enum Draw {
    Fixed(u32),
    /// Equally likely values.
    Table(Box<[u32]>),
}

impl Draw {
    /// All of `first` to `last`, equally likely.
    pub fn even(first: u32, last: u32) -> Self {
        let span = f64::from(last.saturating_sub(first)) + 1.0;
        Self::by_quantile(|quantile| first + (quantile * span) as u32)
    }

    /// Each value by its weight. Of no value, or of weights that sum to nothing, always 0.
    pub fn weighted(values: &[(u32, f64)]) -> Self {
        let total: f64 = values.iter().map(|(_, weight)| weight.max(0.0)).sum();
        let mut remaining = values.iter();
        let (mut value, mut passed) = (0, 0.0);
        let by_quantile = |quantile: f64| {
            while passed <= quantile * total {
                let Some((next, weight)) = remaining.next() else { break };
                passed += weight.max(0.0);
                value = *next;
            }
            value
        };
        Self::by_quantile(by_quantile)
    }

    /// A lognormal distribution of this median, whose logarithm has the standard deviation `sigma`; what lies outside
    /// of `min` to `max` is moved to the bound.
    pub fn lognormal(median: f64, sigma: f64, min: u32, max: u32) -> Self {
        Self::by_quantile(|quantile| {
            let value = median * (sigma * normal_quantile(quantile)).exp();
            (value as u32).clamp(min, max.max(min))
        })
    }

    /// The `i`th of `count` things by weight 1/i: few popular ones and a long tail (Zipf's law).
    pub fn zipf(count: u32) -> Self {
        let weights: Vec<_> = (0..count).map(|index| (index, 1.0 / (f64::from(index) + 1.0))).collect();
        Self::weighted(&weights)
    }

    /// `of` is asked in ascending order.
    fn by_quantile(of: impl FnMut(f64) -> u32) -> Self {
        let quantiles = (0..VALUES).map(|index| (index as f64 + 0.5) / VALUES as f64);
        Self::Table(quantiles.map(of).collect())
    }

    /// The value of thing `number`; `salt` tells apart what is drawn for one thing.
    pub fn at(&self, number: u64, salt: u64) -> u32 {
        match self {
            Self::Fixed(value) => *value,
            Self::Table(values) => values[(spread(number ^ (salt << 48)) % values.len() as u64) as usize],
        }
    }

    /// The largest value.
    pub fn max(&self) -> u32 {
        match self {
            Self::Fixed(value) => *value,
            Self::Table(values) => values.iter().copied().max().unwrap_or(0),
        }
    }

    /// The mean value.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Fixed(value) => f64::from(*value),
            Self::Table(values) => {
                values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len().max(1) as f64
            }
        }
    }
}

/// A fixed shuffle of 64 bits (the finalizer of splitmix64).
pub(crate) fn spread(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The standard normal distribution's quantile, by bisection of its distribution function: made once for each value
/// of a table, so that it may be slow.
fn normal_quantile(quantile: f64) -> f64 {
    let (mut low, mut high) = (-8.0_f64, 8.0_f64);
    for _ in 0..50 {
        let middle = (low + high) / 2.0;
        if normal_below(middle) < quantile { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// The share of a standard normal distribution below `x`, within 1e-7 (Abramowitz and Stegun 26.2.17).
fn normal_below(x: f64) -> f64 {
    const FACTORS: [f64; 5] = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let polynomial = FACTORS.iter().rev().fold(0.0, |sum, factor| (sum + factor) * t);
    let tail = polynomial * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
    if x >= 0.0 { 1.0 - tail } else { tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(draw: &Draw) -> Vec<u32> {
        (0..20_000).map(|number| draw.at(number, 1)).collect()
    }

    fn mean(values: &[u32]) -> f64 {
        values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64
    }

    #[test]
    fn even_values_fill_their_range() {
        let values = drawn(&Draw::even(1_000, 50_000));
        assert!(values.iter().all(|value| (1_000..=50_000).contains(value)));
        assert!((24_500.0..26_500.0).contains(&mean(&values)), "{}", mean(&values));
    }

    #[test]
    fn weighted_values_come_by_their_weight() {
        let values = drawn(&Draw::weighted(&[(1, 90.0), (5, 10.0), (9, 0.0)]));
        let fives = values.iter().filter(|value| **value == 5).count();
        assert!((1_800..2_200).contains(&fives), "{fives}");
        assert!(!values.contains(&9));
        assert_eq!(Draw::weighted(&[]).at(3, 0), 0);
    }

    #[test]
    fn a_lognormal_has_its_median_and_its_bounds() {
        let draw = Draw::lognormal(20_000.0, 1.0, 2_000, 500_000);
        let mut values = drawn(&draw);
        values.sort_unstable();
        assert!((19_000..21_000).contains(&values[10_000]), "{}", values[10_000]);
        assert!(values[0] >= 2_000 && draw.max() <= 500_000);
        assert!((draw.mean() / 32_974.0 - 1.0).abs() < 0.05, "{}", draw.mean());
    }

    #[test]
    fn a_zipf_has_few_popular_things_and_all_of_them() {
        let values = drawn(&Draw::zipf(500));
        let firsts = values.iter().filter(|value| **value == 0).count();
        assert!((2_600..3_300).contains(&firsts), "{firsts}");
        assert!(values.iter().any(|value| *value > 490));
    }
}
