//! The verdicts on the entries of a page, as bits.

/// What the codes imply about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The row does not match.
    No,
    /// The codes do not decide whether the row matches.
    Maybe,
    /// The row matches.
    Yes,
}

impl Verdict {
    pub(super) fn of(matches: bool) -> Verdict {
        if matches { Verdict::Yes } else { Verdict::No }
    }
}

/// Verdicts on the entries of a page. Bit `i % 64` of word `i / 64` belongs to entry `i`. If
/// neither bit is set, the verdict is [`Verdict::Maybe`].
#[derive(Debug, Clone, Default)]
pub struct Verdicts {
    pub(super) no: Vec<u64>,
    pub(super) yes: Vec<u64>,
    pub(super) count: usize,
}

pub(super) const WORD: usize = u64::BITS as usize;

impl Verdicts {
    pub(super) fn new(capacity: usize) -> Verdicts {
        Verdicts {
            no: vec![0; capacity.div_ceil(WORD)],
            yes: vec![0; capacity.div_ceil(WORD)],
            count: 0,
        }
    }

    pub(super) fn fill(&mut self, verdict: Verdict) {
        self.no
            .fill(if verdict == Verdict::No { u64::MAX } else { 0 });
        self.yes
            .fill(if verdict == Verdict::Yes { u64::MAX } else { 0 });
    }

    pub(super) fn set(&mut self, entry: usize, verdict: Verdict) {
        let (word, bit) = (entry / WORD, 1 << (entry % WORD));
        self.no[word] = self.no[word] & !bit | if verdict == Verdict::No { bit } else { 0 };
        self.yes[word] = self.yes[word] & !bit | if verdict == Verdict::Yes { bit } else { 0 };
    }

    /// Combines verdicts by AND: No if any part is No, Yes if all parts are Yes.
    pub(super) fn and(&mut self, other: &Verdicts, negated: bool) {
        let (no, yes) = if negated {
            (&other.yes, &other.no)
        } else {
            (&other.no, &other.yes)
        };
        self.no.iter_mut().zip(no).for_each(|(a, b)| *a |= b);
        self.yes.iter_mut().zip(yes).for_each(|(a, b)| *a &= b);
    }

    #[inline]
    pub fn get(&self, entry: usize) -> Verdict {
        let is_set = |bits: &[u64]| bits[entry / WORD] >> (entry % WORD) & 1 == 1;
        if is_set(&self.no) {
            Verdict::No
        } else if is_set(&self.yes) {
            Verdict::Yes
        } else {
            Verdict::Maybe
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The entries that are not rejected, in order, with their verdicts.
    #[inline]
    pub fn not_rejected(&self) -> impl Iterator<Item = (usize, Verdict)> + '_ {
        (0..self.count.div_ceil(WORD)).flat_map(move |word| {
            let taken = u64::MAX >> (WORD - (self.count - word * WORD).min(WORD));
            bits(!self.no[word] & taken).map(move |bit| {
                let entry = word * WORD + bit;
                (entry, self.get(entry))
            })
        })
    }
}

/// The indices of the set bits.
#[inline]
pub(super) fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (word != 0).then(|| {
            let bit = word.trailing_zeros() as usize;
            word &= word - 1;
            bit
        })
    })
}
