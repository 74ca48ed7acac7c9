//! The scale (and, for SigLIP, the bias) with which a dual encoder turns a cosine into a logit.

use crate::directory::Directory;
use crate::scope::Scope;
use crate::weights::Weights;
use crate::{Cancel, ModelError};

/// `logit = scale · cosine + bias`. CLIP's loss takes a softmax over the logits of several texts, so
/// CLIP's logits only say which of these texts fits a picture best. SigLIP's loss takes a sigmoid of
/// each logit, so a logit of SigLIP is the log-odds that text and picture belong together (Zhai et al.
/// 2023, "Sigmoid Loss for Language Image Pre-Training").
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    pub scale: f32,
    pub bias: Option<f32>,
}

/// The tensor with the natural logarithm of the scale.
const SCALE: &str = "logit_scale";
const BIAS: &str = "logit_bias";

impl Calibration {
    /// Reads the values through the scope of the other weights, so that the pack contains them.
    pub(crate) fn load(scope: &Scope<'_>) -> Result<Self, ModelError> {
        Ok(Self {
            scale: scope.scalar(SCALE)?.exp(),
            bias: scope.has(BIAS).then(|| scope.scalar(BIAS)).transpose()?,
        })
    }

    /// Reads the values from a checkpoint. Reads no other weights.
    pub(crate) fn read(directory: &Directory) -> Result<Self, ModelError> {
        let weights = Weights::open(directory, &Cancel::new())?;
        Ok(Self {
            scale: weights.scalar(SCALE)?.exp(),
            bias: weights
                .has(BIAS)
                .then(|| weights.scalar(BIAS))
                .transpose()?,
        })
    }

    /// The probability that a text and a picture with this cosine belong together, as SigLIP's loss
    /// defines it; `None` without a bias.
    pub fn probability(&self, cosine: f32) -> Option<f32> {
        let logit = self.scale * cosine + self.bias?;
        Some(1.0 / (1.0 + (-logit).exp()))
    }

    /// The cosine for which [`Calibration::probability`] is `probability`; `None` without a bias, or if
    /// there is no such cosine.
    pub fn cosine(&self, probability: f32) -> Option<f32> {
        let logit = (probability / (1.0 - probability)).ln();
        let cosine = (logit - self.bias?) / self.scale;
        (-1.0..=1.0).contains(&cosine).then_some(cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probability_has_a_cosine() {
        // Approximately the values of google/siglip-base-patch16-224.
        let siglip = Calibration {
            scale: 117.33,
            bias: Some(-12.93),
        };
        let even = siglip.cosine(0.5).unwrap();
        assert!((even - 0.1102).abs() < 1e-4, "{even}");
        for probability in [0.001, 0.2, 0.5, 0.99] {
            let cosine = siglip.cosine(probability).unwrap();
            let again = siglip.probability(cosine).unwrap();
            assert!((again - probability).abs() < 1e-4, "{again}");
        }
        let clip = Calibration {
            scale: 100.0,
            bias: None,
        };
        assert_eq!((clip.cosine(0.5), clip.probability(0.3)), (None, None));
        let flat = Calibration {
            scale: 1.0,
            bias: Some(-10.0),
        };
        assert_eq!(flat.cosine(0.5), None);
    }
}
