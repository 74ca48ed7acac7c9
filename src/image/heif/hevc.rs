//! Reads the coded data of an HEVC picture (ITU-T H.265) as far as its format: the size for which a
//! decoder will allocate memory, and the colours. Section numbers are those of H.265.

use super::read::{BitReader, ByteReader};
use super::{ChromaFormat, CodedFormat, Colours, Fault};

/// Types of NAL units (7.4.2.2). Slices of IRAP pictures need no other picture. Units that are not VCL
/// hold no slices.
const FIRST_IRAP: u8 = 16;
const LAST_IRAP: u8 = 23;
const FIRST_NON_VCL: u8 = 32;
const SPS: u8 = 33;
const PPS: u8 = 34;

/// The most NAL units of the box `hvcC`, and the most sequence parameter sets of a picture. Encoders write three
/// parameter sets; thousands are an attack. (Other units among the data count towards [`MAX_UNITS`] only.)
const MAX_PARAMETER_SETS: usize = 16;

/// The most NAL units of a picture. The highest level of HEVC allows 600 slices.
const MAX_UNITS: usize = 4096;

/// The most bytes that are read of a sequence parameter set. Encoders write tens, with scaling lists some
/// hundreds. If the colours that it states come later, it counts as cut short.
const MAX_SPS: usize = 2 << 10;

/// A coded picture in the form in which the decoder gets it.
pub(super) struct HevcPicture {
    /// The content of an `hvcC` box without NAL units.
    pub configuration: Vec<u8>,
    /// The parameter sets and slices, with a length of 32 bits before each.
    pub data: Vec<u8>,
}

/// The content of an `hvcC` box (ISO/IEC 14496-15, 8.3.2).
struct Configuration<'a> {
    head: &'a [u8],
    /// The size in bytes of the length before each NAL unit in the data.
    length_size: usize,
    parameter_sets: Vec<&'a [u8]>,
}

impl<'a> Configuration<'a> {
    fn read(content: &'a [u8]) -> Result<Self, Fault> {
        let mut rest = ByteReader(content);
        let head = rest.take(22)?;
        let mut parameter_sets = Vec::new();
        for _ in 0..rest.u8()? {
            rest.u8()?;
            for _ in 0..rest.u16()? {
                let length = rest.u16()?;
                parameter_sets.push(rest.take(usize::from(length))?);
                if parameter_sets.len() > MAX_PARAMETER_SETS {
                    return Err(Fault::damaged("it has too many parameter sets"));
                }
            }
        }
        Ok(Configuration {
            head,
            length_size: usize::from(head[21] & 3) + 1,
            parameter_sets,
        })
    }
}

/// The format that the parameter sets of a picture state. Checks that the data have one picture.
pub(super) fn format(hvcc: &[u8], data: &[u8]) -> Result<CodedFormat, Fault> {
    let configuration = Configuration::read(hvcc)?;
    let mut formats = Formats::default();
    for set in &configuration.parameter_sets {
        formats.add(set)?;
    }
    let mut pictures = 0;
    for (index, unit) in NalUnits::new(data, &configuration).enumerate() {
        let unit = unit?;
        if index == MAX_UNITS {
            return Err(Fault::damaged("it has too many slices"));
        }
        formats.add(unit)?;
        pictures += usize::from(starts_picture(unit)?);
    }
    if pictures != 1 {
        return Err(Fault::damaged(
            "one of its items does not have exactly one picture",
        ));
    }
    formats.into_format()
}

impl HevcPicture {
    /// Copies the parameter sets and the slices, and drops all other NAL units.
    pub fn read(hvcc: &[u8], data: &[u8]) -> Result<Self, Fault> {
        let configuration = Configuration::read(hvcc)?;
        let mut units = Vec::new();
        let mut push = |unit: &[u8]| {
            if is_used(unit) {
                // Fits: `NalUnits` and `Configuration` read lengths of at most 32 bits.
                units.extend_from_slice(&(unit.len() as u32).to_be_bytes());
                units.extend_from_slice(unit);
            }
        };
        configuration
            .parameter_sets
            .iter()
            .for_each(|set| push(set));
        for unit in NalUnits::new(data, &configuration) {
            push(unit?);
        }
        let mut head = configuration.head.to_vec();
        head[21] |= 3;
        head.push(0);
        Ok(HevcPicture {
            configuration: head,
            data: units,
        })
    }
}

/// The NAL units of a picture.
struct NalUnits<'a> {
    rest: ByteReader<'a>,
    length_size: usize,
}

impl<'a> NalUnits<'a> {
    fn new(data: &'a [u8], configuration: &Configuration<'_>) -> Self {
        NalUnits {
            rest: ByteReader(data),
            length_size: configuration.length_size,
        }
    }
}

impl<'a> Iterator for NalUnits<'a> {
    type Item = Result<&'a [u8], Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let length = self.rest.number(self.length_size);
        let unit = length.and_then(|length| {
            // `length_size` is at most 4.
            self.rest.take(length as usize)
        });
        if unit.is_err() {
            self.rest = ByteReader(&[]);
        }
        Some(unit)
    }
}

fn kind(unit: &[u8]) -> u8 {
    unit.first().map_or(u8::MAX, |byte| byte >> 1 & 0x3f)
}

/// Whether a unit belongs to the base layer. Other layers have additional views, for instance.
fn is_base(unit: &[u8]) -> bool {
    matches!(unit, [first, second, ..] if first & 1 == 0 && second >> 3 == 0)
}

fn is_used(unit: &[u8]) -> bool {
    is_base(unit) && kind(unit) <= PPS
}

/// Whether a unit is the first slice of a picture.
///
/// # Errors
/// The unit is a slice that needs another picture.
fn starts_picture(unit: &[u8]) -> Result<bool, Fault> {
    if !is_base(unit) || kind(unit) >= FIRST_NON_VCL {
        return Ok(false);
    }
    if !(FIRST_IRAP..=LAST_IRAP).contains(&kind(unit)) {
        return Err(Fault::damaged(
            "it depends on pictures that are not in the file",
        ));
    }
    Ok(unit.get(2).is_some_and(|byte| byte & 0x80 != 0))
}

/// Collects the format from all sequence parameter sets, which have to agree.
#[derive(Default)]
struct Formats {
    format: Option<CodedFormat>,
    sets: usize,
}

impl Formats {
    fn add(&mut self, unit: &[u8]) -> Result<(), Fault> {
        if !is_base(unit) || kind(unit) != SPS {
            return Ok(());
        }
        self.sets += 1;
        if self.sets > MAX_PARAMETER_SETS {
            return Err(Fault::damaged("it has too many parameter sets"));
        }
        let format = sequence_parameter_set(unit)?;
        if *self.format.get_or_insert(format) != format {
            return Err(Fault::damaged("its parameter sets contradict each other"));
        }
        Ok(())
    }

    fn into_format(self) -> Result<CodedFormat, Fault> {
        let missing = || Fault::damaged("its parameter sets are missing");
        self.format.ok_or_else(missing)
    }
}

/// Reads a sequence parameter set (7.3.2.2) up to the colours.
fn sequence_parameter_set(unit: &[u8]) -> Result<CodedFormat, Fault> {
    let unit = &unit[..unit.len().min(MAX_SPS)];
    let content = without_emulation_prevention(unit.get(2..).unwrap_or_default());
    let bits = &mut BitReader::new(&content);
    bits.skip(4)?;
    let sub_layers_minus_1 = bits.bits(3)?;
    bits.skip(1)?;
    skip_profile(bits, sub_layers_minus_1)?;
    bits.golomb()?;
    let chroma = match bits.golomb()? {
        0 => ChromaFormat::None,
        1 => ChromaFormat::Quarter,
        2 => ChromaFormat::Half,
        3 => ChromaFormat::Full,
        _ => return Err(Fault::damaged("its chroma format is invalid")),
    };
    if chroma == ChromaFormat::Full && bits.flag()? {
        return Err(Fault::unsupported("with separately coded colour planes"));
    }
    let (coded_width, coded_height) = (bits.golomb()?, bits.golomb()?);
    let (mut width, mut height) = (coded_width, coded_height);
    let mut begins_later = false;
    if bits.flag()? {
        let (across, down) = match chroma {
            ChromaFormat::Quarter => (2, 2),
            ChromaFormat::Half => (2, 1),
            ChromaFormat::None | ChromaFormat::Full => (1, 1),
        };
        let mut crop = |unit: u32| {
            let (near, far) = (bits.golomb()?, bits.golomb()?);
            begins_later |= near != 0;
            Ok(u64::from(unit) * (u64::from(near) + u64::from(far)))
        };
        let cropped = |side: u32, crop: u64| {
            let crop = u32::try_from(crop).ok();
            let side = crop.and_then(|crop| side.checked_sub(crop));
            side.ok_or_else(|| Fault::damaged("its cropping leaves no pixels"))
        };
        width = cropped(width, crop(across)?)?;
        height = cropped(height, crop(down)?)?;
    }
    let depth = bits.golomb()?.saturating_add(8);
    let chroma_depth = bits.golomb()?.saturating_add(8);
    if depth > 8 && begins_later {
        // libde265 would start at the wrong sample.
        return Err(Fault::unsupported(
            "cropped at the left or top, with samples of more than 8 bits",
        ));
    }
    if chroma != ChromaFormat::None && chroma_depth != depth {
        return Err(Fault::unsupported(
            "with different bit depths of luma and chroma",
        ));
    }
    let count_bits = bits.golomb()?.saturating_add(4);
    let all_sub_layers = bits.flag()?;
    for _ in if all_sub_layers {
        0
    } else {
        sub_layers_minus_1
    }..=sub_layers_minus_1
    {
        skip_golombs(bits, 3)?;
    }
    skip_golombs(bits, 6)?;
    if bits.flag()? && bits.flag()? {
        skip_scaling_lists(bits)?;
    }
    bits.skip(2)?;
    if bits.flag()? {
        bits.skip(8)?;
        skip_golombs(bits, 2)?;
        bits.skip(1)?;
    }
    skip_reference_pictures(bits, count_bits)?;
    bits.skip(2)?;
    let colours = if bits.flag()? {
        colours(bits)?
    } else {
        Colours::UNKNOWN
    };
    Ok(CodedFormat {
        width,
        height,
        coded_width,
        coded_height,
        chroma,
        depth,
        colours,
    })
}

/// Removes the emulation prevention bytes (7.3.1.2): 0 0 3 becomes 0 0.
fn without_emulation_prevention(bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(bytes.len());
    let mut zeros = 0;
    for &byte in bytes {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        content.push(byte);
    }
    content
}

fn skip_golombs(bits: &mut BitReader<'_>, count: usize) -> Result<(), Fault> {
    for _ in 0..count {
        bits.golomb()?;
    }
    Ok(())
}

/// `profile_tier_level` (7.3.3).
fn skip_profile(bits: &mut BitReader<'_>, sub_layers_minus_1: u32) -> Result<(), Fault> {
    bits.skip(88 + 8)?;
    let mut present = Vec::new();
    for _ in 0..sub_layers_minus_1 {
        present.push((bits.flag()?, bits.flag()?));
    }
    if sub_layers_minus_1 > 0 {
        bits.skip(2 * 8_u32.saturating_sub(sub_layers_minus_1))?;
    }
    for (profile, level) in present {
        bits.skip(88 * u32::from(profile) + 8 * u32::from(level))?;
    }
    Ok(())
}

/// `scaling_list_data` (7.3.4).
fn skip_scaling_lists(bits: &mut BitReader<'_>) -> Result<(), Fault> {
    for size in 0..4_u32 {
        for _ in 0..if size == 3 { 2 } else { 6 } {
            if bits.flag()? {
                let coefficients = 64.min(1_usize << (4 + 2 * size));
                skip_golombs(bits, coefficients + usize::from(size > 1))?;
            } else {
                bits.golomb()?;
            }
        }
    }
    Ok(())
}

/// `st_ref_pic_set` (7.3.7), and the long-term reference pictures in 7.3.2.2.
fn skip_reference_pictures(bits: &mut BitReader<'_>, count_bits: u32) -> Result<(), Fault> {
    let sets = bits.golomb()?;
    let mut pictures = 0;
    for set in 0..sets {
        if set > 0 && bits.flag()? {
            bits.skip(1)?;
            bits.golomb()?;
            let mut kept = 0;
            for _ in 0..=pictures {
                kept += u32::from(bits.flag()? || bits.flag()?);
            }
            pictures = kept;
        } else {
            pictures = bits.golomb()?.saturating_add(bits.golomb()?);
            for _ in 0..pictures {
                bits.golomb()?;
                bits.skip(1)?;
            }
        }
    }
    if bits.flag()? {
        for _ in 0..bits.golomb()? {
            bits.skip(count_bits.saturating_add(1))?;
        }
    }
    Ok(())
}

/// Reads `vui_parameters` (E.2.1) up to the colours.
fn colours(bits: &mut BitReader<'_>) -> Result<Colours, Fault> {
    if bits.flag()? && bits.bits(8)? == 255 {
        bits.skip(32)?;
    }
    if bits.flag()? {
        bits.skip(1)?;
    }
    let mut colours = Colours::UNKNOWN;
    if bits.flag()? {
        bits.skip(3)?;
        colours.full_range = bits.flag()?;
        if bits.flag()? {
            colours.primaries = bits.bits(8)? as u16;
            colours.transfer = bits.bits(8)? as u16;
            colours.matrix = bits.bits(8)? as u16;
        }
    }
    Ok(colours)
}
