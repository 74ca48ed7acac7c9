//! Detects the processor's instruction sets and selects code by them. No other crate detects
//! instruction sets.
//!
//! Code is written for [`Level`]s of instruction sets, each of which includes the lower ones. A
//! [`Cpu`] holds a level that the processor supports. It can only be created for a supported level,
//! so [`Cpu::has`] is the only check needed before a call of a function with `#[target_feature]`:
//!
//! - A kernel written in intrinsics takes a `Cpu` and tries its variants from the highest level
//!   down. Callers pass [`Cpu::best`]; tests pass every supported level with [`Cpu::at`].
//! - A loop that the compiler vectorises is compiled once for each of three levels by [`vectorised!`].
//!
//! Two choices are made elsewhere. Libraries (NumKong, gemm, half, libjpeg-turbo) select their own
//! variants. The choice between NumKong and our own code for matrix products also depends on AMX,
//! which only NumKong uses (`Kernel` in photosearch-model).
//!
//! On AArch64 there is one level, because NEON is part of the baseline and the compiler uses it.

use std::sync::LazyLock;

/// Levels of instruction sets, lowest first. Each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The instructions that the compiler may always use.
    Baseline,
    /// x86-64 with AVX2, FMA and F16C: Haswell, Zen and later.
    Avx2,
    /// Adds AVX-512 F, BW, DQ and VL: Skylake-X, Zen 4 and later.
    Avx512,
    /// Adds AVX-512 VNNI, for products of 8-bit integers: Cascade Lake, Zen 4 and later.
    Avx512Vnni,
    /// Adds AVX-512 BF16: Cooper Lake, Zen 4 and later.
    Avx512Bf16,
}

impl Level {
    /// The highest level that this processor supports.
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

/// A level that this processor supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu(Level);

impl Cpu {
    /// The highest level that this processor supports.
    #[inline]
    pub fn best() -> Cpu {
        static BEST: LazyLock<Cpu> = LazyLock::new(|| Cpu(Level::detect()));
        *BEST
    }

    /// This level; `None` if the processor does not support it.
    pub fn at(level: Level) -> Option<Cpu> {
        Cpu::best().has(level).then_some(Cpu(level))
    }

    /// Whether code for this level may run. If true, the processor has the level's instructions.
    #[inline]
    pub fn has(self, level: Level) -> bool {
        self.0 >= level
    }
}

/// Compiles a function for the baseline, for [`Level::Avx2`] and for [`Level::Avx512`], and calls
/// the best variant that the processor supports. All variants do the same operations in the same
/// order, because the compiler does not fuse multiplications with additions.
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
                fn avx2($($argument: $type),*) $(-> $result)? {
                    body($($argument),*)
                }
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    body($($argument),*)
                }
                let cpu = $crate::Cpu::best();
                if cpu.has($crate::Level::Avx512) {
                    // SAFETY: the processor has the instructions for which the function is
                    // compiled.
                    return unsafe { avx512($($argument),*) };
                }
                if cpu.has($crate::Level::Avx2) {
                    // SAFETY: as above.
                    return unsafe { avx2($($argument),*) };
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
    fn the_variants_give_the_same() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
        let plain = x.iter().zip(&x).map(|(x, y)| x * y).sum::<f32>();
        assert_eq!(dot(&x, &x).to_bits(), plain.to_bits());
    }
}
