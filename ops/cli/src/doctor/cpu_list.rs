//! Sets of CPUs as the kernel writes them: lists (`0-3,8`) and masks of 32-bit words (`00000001,000000ff`).

use postrail_schema::limits::DOCTOR_CPUS_MAX;

/// The CPUs of a list, ascending; what is no number is left out.
pub(super) fn parse_list(text: &str) -> Vec<usize> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) else { continue };
        cpus.extend(first..=last.min(DOCTOR_CPUS_MAX - 1));
        // Ranges may overlap in a made-up file: their sum is bounded, too.
        if cpus.len() > DOCTOR_CPUS_MAX {
            break;
        }
    }
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

/// The CPUs of a mask, ascending.
pub(super) fn parse_mask(text: &str) -> Vec<usize> {
    let words = text.trim().rsplit(',').map(|word| u32::from_str_radix(word.trim(), 16).unwrap_or(0));
    let bits =
        |(index, word): (usize, u32)| (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 32 + bit);
    words.take(DOCTOR_CPUS_MAX / 32).enumerate().flat_map(bits).collect()
}

/// The mask of CPUs, as the kernel takes it.
pub(super) fn mask_text(cpus: &[usize]) -> String {
    let words = cpus.iter().max().map_or(1, |last| last / 32 + 1);
    let word =
        |index: usize| cpus.iter().filter(|cpu| **cpu / 32 == index).fold(0_u32, |word, cpu| word | 1 << (cpu % 32));
    (0..words).rev().map(|index| format!("{:08x}", word(index))).collect::<Vec<_>>().join(",")
}

/// The list of ascending CPUs.
pub(super) fn list_text(cpus: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => parts.push((cpu, cpu)),
        }
    }
    let part = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    if parts.is_empty() { "none".to_owned() } else { parts.iter().map(part).collect::<Vec<_>>().join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, cpus, again) in [
            ("0-3,8\n", vec![0, 1, 2, 3, 8], "0-3,8"),
            ("5", vec![5], "5"),
            ("", vec![], "none"),
            ("x,1-,2-1,3", vec![3], "3"),
        ] {
            assert_eq!(parse_list(text), cpus, "{text:?}");
            assert_eq!(list_text(&cpus), again);
        }
        assert_eq!(parse_list("0-99999999999").len(), DOCTOR_CPUS_MAX);
        assert!(parse_list(&"0-4095,".repeat(10_000)).len() <= DOCTOR_CPUS_MAX);
    }

    #[test]
    fn masks_are_read_and_written() {
        for (text, cpus) in [("00000000,00000005", vec![0, 2]), ("1,00000000", vec![32]), ("zz", vec![]), ("", vec![])]
        {
            assert_eq!(parse_mask(text), cpus, "{text:?}");
        }
        assert_eq!((mask_text(&[0, 2]), mask_text(&[33])), ("00000005".to_owned(), "00000002,00000000".to_owned()));
    }
}
