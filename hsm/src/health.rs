//! Whether the random bytes of a device look like any: a source that is stuck, repeats itself or is biased is found out; one that was
//! made to deceive is not.

use std::collections::HashSet;

use crate::memory::Secret;

/// Of each of the two draws that [`looks_random`] judges.
pub const DRAW_BYTES: usize = 256;
/// Bytes in a row that never come again.
const PART: usize = 8;

/// What two draws of a good source have, but for one in 10^13 draws or fewer: about as many ones as zeros (of 2,048 fair bits
/// at least 850 and at most 1,198), no byte more often than 18 times (of 256; SP 800-90B, 4.4.2), and no eight bytes in a row
/// that come again, in the same draw or the other (4.4.1).
pub fn looks_random(one: &Secret<Vec<u8>>, other: &Secret<Vec<u8>>) -> bool {
    fair(one.expose()) && fair(other.expose()) && never_again(&[one.expose(), other.expose()])
}

/// The same of a draw that is to be used, whatever its length, beside two draws of [`DRAW_BYTES`] that were made for the test just
/// before: all three are judged together. For 128 KiB of good bytes it fails once in 10^9 draws.
pub fn looks_random_beside(samples: [&Secret<Vec<u8>>; 2], drawn: &Secret<Vec<u8>>) -> bool {
    let [one, other] = samples;
    looks_random(one, other) && never_again(&[one.expose(), other.expose(), drawn.expose()])
}

fn fair(bytes: &[u8]) -> bool {
    let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
    let mut times = [0; 256];
    bytes.iter().for_each(|byte| times[usize::from(*byte)] += 1);
    bytes.len() == DRAW_BYTES && (850..=1198).contains(&ones) && times.iter().all(|often| *often <= 18)
}

fn never_again(draws: &[&[u8]]) -> bool {
    let mut parts = HashSet::new();
    draws.iter().flat_map(|draw| draw.windows(PART)).all(|part| parts.insert(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::memory::Secret;

    const DRAW: usize = DRAW_BYTES;

    fn judged(mut source: impl FnMut() -> u8) -> bool {
        let mut draw = || Secret::new((0..DRAW).map(|_| source()).collect::<Vec<u8>>());
        looks_random(&draw(), &draw())
    }

    /// Good bytes, as the system gives them.
    fn good() -> u8 {
        let mut byte = [0];
        getrandom::fill(&mut byte).unwrap();
        byte[0]
    }

    #[test]
    fn a_good_source_is_taken_for_one() {
        for _ in 0..200 {
            assert!(judged(good));
        }
    }

    #[test]
    fn a_source_that_gives_one_byte_is_none_however_fair_its_bits() {
        for constant in [0x00, 0xFF, 0x55, 0x0F] {
            assert!(!judged(|| constant), "{constant:#x}");
        }
    }

    #[test]
    fn a_source_that_repeats_itself_is_none() {
        // The same draw again, a part of it, and a part of the first in the second.
        let block: Vec<u8> = (0..DRAW).map(|_| good()).collect();
        for length in [DRAW, DRAW / 2, 16, 8] {
            let mut bytes = block[..length].iter().copied().cycle();
            assert!(!judged(|| bytes.next().unwrap()), "after {length} bytes");
        }
        let mut stuck = block.iter().copied().chain((0..100).map(|_| good())).chain(block[90..].iter().copied());
        assert!(!judged(|| stuck.next().unwrap()), "in another place");
    }

    #[test]
    fn a_biased_source_is_none() {
        // Bits that are one in five of eight cases.
        let bit = || u8::from(good() < 160);
        assert!(!judged(|| (0..8).fold(0, |byte, _| byte << 1 | bit())));
        // Fair bits in few bytes.
        assert!(!judged(|| [0x0F, 0xF0, 0x55, 0xAA, 0x33, 0xCC, 0x3C, 0xC3][usize::from(good() % 8)]));
    }

    #[test]
    fn a_short_draw_is_none() {
        let of = |length: usize| Secret::new((0..length).map(|_| good()).collect::<Vec<u8>>());
        assert!(!looks_random(&of(DRAW), &of(DRAW - 1)) && !looks_random(&of(0), &of(0)));
    }

    #[test]
    fn what_is_used_is_judged_too() {
        let of = |length: usize| Secret::new((0..length).map(|_| good()).collect::<Vec<u8>>());
        let (one, other) = (of(DRAW), of(DRAW));
        for length in [0, 1, 7, 8, 64, 4000] {
            assert!(looks_random_beside([&one, &other], &of(length)), "{length} bytes");
        }
        // A source that gets stuck, or goes back to where it was.
        assert!(!looks_random_beside([&one, &other], &Secret::new(vec![7; 9])));
        assert!(!looks_random_beside([&one, &other], &Secret::new(one.expose()[30..62].to_vec())));
        assert!(!looks_random_beside([&one, &one], &of(64)));
    }
}
