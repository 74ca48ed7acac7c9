//! Which instructions this processor has: the one place where that is asked, and by which code is chosen.
//!
//! Code is written for [`Level`]s of instructions, each of which contains those below it. A [`Cpu`] says
//! up to which level the processor goes. It can only be had for a level that the processor has, so that
//! calling a function with `#[target_feature]` needs no other check than [`Cpu::has`]:
//!
//! - A kernel that is written in intrinsics takes a `Cpu` and tries its variants, the highest level first;
//!   callers pass [`Cpu::best`], tests every level of [`Cpu::at`].
//! - A loop that the compiler turns into vector code is compiled twice by [`vectorised!`].
//!
//! Two things are not chosen here: libraries (NumKong, gemm, half, libjpeg-turbo) choose among their own
//! variants, and which of NumKong and our own code multiplies matrices depends on AMX too, which only
//! NumKong uses (`Kernel` in the crate of models).
//!
//! On AArch64 there is one level: NEON belongs to the baseline, and the compiler uses it.

use std::sync::LazyLock;

/// Instructions, lowest first. Each level contains those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What the compiler takes for granted.
    Baseline,
    /// x86-64 with AVX2, FMA and F16C: Haswell, Zen and later.
    Avx2,
    /// With AVX-512 F, BW, DQ and VL: Skylake-X, Zen 4 and later.
    Avx512,
    /// With its VNNI, for products of whole numbers of 8 bits: Cascade Lake, Zen 4 and later.
    Avx512Vnni,
    /// With its BF16: Cooper Lake, Zen 4 and later.
    Avx512Bf16,
}

impl Level {
    /// The highest that this processor has.
    fn detect() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            let vnni = is_x86_feature_detected!("avx512vnni");
            let bf16 = is_x86_feature_detected!("avx512bf16");
            match (avx2, avx512, vnni, bf16) {
                (true, true, true, true) => Level::Avx512Bf16,
                (true, true, true, false) => Level::Avx512Vnni,
                (true, true, false, _) => Level::Avx512,
                (true, false, _, _) => Level::Avx2,
                (false, _, _, _) => Level::Baseline,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Level::Baseline
    }
}

/// A level that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu(Level);

impl Cpu {
    /// At the highest level that this processor has.
    #[inline]
    pub fn best() -> Cpu {
        static BEST: LazyLock<Cpu> = LazyLock::new(|| Cpu(Level::detect()));
        *BEST
    }

    /// At this level; `None` where the processor does not have it.
    pub fn at(level: Level) -> Option<Cpu> {
        Cpu::best().has(level).then_some(Cpu(level))
    }

    /// Whether code for this level may run. Where it is true, the processor has the level's instructions.
    #[inline]
    pub fn has(self, level: Level) -> bool {
        self.0 >= level
    }
}

/// Compiles a function for the baseline and once more for [`Level::Avx2`], and calls the better one. Both
/// do the same operations in the same order: the compiler fuses no multiplication with an addition.
#[macro_export]
macro_rules! vectorised {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block
    ) => {
        $(#[$attribute])*
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn body($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn wide($($argument: $type),*) $(-> $result)? {
                    body($($argument),*)
                }
                if $crate::Cpu::best().has($crate::Level::Avx2) {
                    // SAFETY: the processor has what the function is compiled for.
                    return unsafe { wide($($argument),*) };
                }
            }
            body($($argument),*)
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: [Level; 5] = [
        Level::Baseline,
        Level::Avx2,
        Level::Avx512,
        Level::Avx512Vnni,
        Level::Avx512Bf16,
    ];

    #[test]
    fn a_level_contains_those_below_it() {
        assert!(LEVELS.is_sorted());
        let best = Cpu::best();
        for level in LEVELS {
            let cpu = Cpu::at(level);
            assert_eq!(cpu.is_some(), best.has(level));
            let Some(cpu) = cpu else { continue };
            for other in LEVELS {
                assert_eq!(cpu.has(other), other <= level);
            }
        }
        assert!(best.has(Level::Baseline));
    }

    vectorised! {
        fn dot(x: &[f32], y: &[f32]) -> f32 {
            x.iter().zip(y).map(|(x, y)| x * y).sum()
        }
    }

    #[test]
    fn both_variants_give_the_same() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
        let plain = x.iter().zip(&x).map(|(x, y)| x * y).sum::<f32>();
        assert_eq!(dot(&x, &x).to_bits(), plain.to_bits());
    }
}
