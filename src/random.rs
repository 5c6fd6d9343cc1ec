//! Chance that follows from a seed.

/// A number that follows from a seed and a count: the same for the same two, and else as if by chance (SplitMix64, Steele, Lea and
/// Flood, "Fast splittable pseudorandom number generators", 2014).
pub const fn mix(seed: u64, count: u64) -> u64 {
    spread(seed.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// The last step of it: gives like numbers unlike ones.
pub(crate) const fn spread(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
