//! The scale, and SigLIP's bias, with which a dual encoder turns a cosine into a logit.

use crate::directory::Directory;
use crate::scope::Scope;
use crate::weights::Weights;
use crate::{Cancel, ModelError};

/// `logit = scale · cosine + bias`. CLIP's loss takes a softmax of the logits of several texts, so
/// its logit says which of several texts fits a picture best. SigLIP's loss takes a sigmoid of each
/// logit, so there a logit is the log-odds that text and picture belong together (Zhai et al. 2023,
/// "Sigmoid Loss for Language Image Pre-Training").
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    pub scale: f32,
    pub bias: Option<f32>,
}

/// A checkpoint stores the logarithm of the scale.
const SCALE: &str = "logit_scale";
const BIAS: &str = "logit_bias";

impl Calibration {
    /// Reads the values with the other weights, so that the pack contains them.
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

    /// The probability that a text and a picture of this cosine belong together, as the model's
    /// loss defines it; `None` without a bias.
    pub fn probability(&self, cosine: f32) -> Option<f32> {
        let logit = self.scale * cosine + self.bias?;
        Some(1.0 / (1.0 + (-logit).exp()))
    }

    /// The cosine of this probability; `None` without a bias, or if no cosine has it.
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
        // About the values of google/siglip-base-patch16-224.
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
