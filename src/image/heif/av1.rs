//! Reads the coded data of an AV1 picture as far as its format: the size for which a decoder will
//! allocate memory, and the colours. Section numbers are those of the AV1 bitstream specification.

use super::read::{BitReader, ByteReader};
use super::{ChromaFormat, CodedFormat, Colours, Fault};

/// Types of open bitstream units, OBUs (6.2.2).
const SEQUENCE_HEADER: u8 = 1;
const FRAME_HEADER: u8 = 3;
const TILE_GROUP: u8 = 4;
const FRAME: u8 = 6;

/// The most frames of a picture. Several frames are layers of increasing quality, of which the last is
/// shown; AV1 allows four.
const MAX_FRAMES: usize = 4;

/// The most OBUs of a picture. A frame has at most 4096 tiles, and encoders put several into an OBU.
const MAX_UNITS: usize = 4096;

/// The value of a field of the sequence header if each frame states its own value (`SELECT_…` in
/// 5.5.1).
const SELECT: u32 = 2;

/// A coded picture in the form in which the decoder gets it.
pub(super) struct Av1Picture {
    /// The content of an `av1C` box without OBUs.
    pub configuration: Vec<u8>,
    pub data: Vec<u8>,
}

struct Unit<'a> {
    kind: u8,
    /// The header with its length, if it has one, and the content.
    whole: &'a [u8],
    /// The header without its length.
    head: &'a [u8],
    content: &'a [u8],
}

/// The OBUs of a picture (5.3).
struct Obus<'a>(ByteReader<'a>);

impl<'a> Iterator for Obus<'a> {
    type Item = Result<Unit<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let unit = self.read();
        if unit.is_err() {
            self.0 = ByteReader(&[]);
        }
        Some(unit)
    }
}

impl<'a> Obus<'a> {
    fn read(&mut self) -> Result<Unit<'a>, Fault> {
        let start = self.0.0;
        let first = self.0.u8()?;
        let head = if first & 4 == 0 { 1 } else { 2 };
        self.0.take(head - 1)?;
        let length = if first & 2 == 0 {
            self.0.0.len()
        } else {
            leb128(&mut self.0)?
        };
        let content = self.0.take(length)?;
        Ok(Unit {
            kind: first >> 3 & 0xf,
            whole: &start[..start.len() - self.0.0.len()],
            head: &start[..head],
            content,
        })
    }
}

/// Reads a number in LEB128 (4.10.5).
fn leb128(bytes: &mut ByteReader<'_>) -> Result<usize, Fault> {
    let mut number = 0;
    for index in 0..8 {
        let byte = bytes.u8()?;
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return usize::try_from(number).map_err(|_| Fault::cut_short());
        }
    }
    Err(Fault::damaged("a number in its headers is too large"))
}

/// The format that the sequence header of a picture states.
pub(super) fn format(av1c: &[u8], data: &[u8]) -> Result<CodedFormat, Fault> {
    let mut sequence: Option<SequenceHeader> = None;
    let (mut frames, mut resized) = (0, false);
    let configuration = Obus(ByteReader(av1c.get(4..).unwrap_or_default()));
    for (index, unit) in configuration.chain(Obus(ByteReader(data))).enumerate() {
        let unit = unit?;
        if index == MAX_UNITS {
            return Err(Fault::damaged("it has too many parts"));
        }
        match unit.kind {
            SEQUENCE_HEADER => {
                let found = SequenceHeader::read(unit.content)?;
                if *sequence.get_or_insert(found) != found {
                    return Err(Fault::damaged("its sequence headers contradict each other"));
                }
            }
            FRAME | FRAME_HEADER => {
                let missing = || Fault::damaged("its sequence header is missing");
                resized |= is_resized(sequence.as_ref().ok_or_else(missing)?, unit.content)?;
                frames += 1;
            }
            _ => {}
        }
    }
    let (Some(sequence), 1..) = (sequence, frames) else {
        return Err(Fault::damaged("data of the picture are missing"));
    };
    if frames > MAX_FRAMES {
        return Err(Fault::unsupported("with more than one picture in an item"));
    }
    let mut format = sequence.format;
    if resized {
        // The sizes that frames state themselves are not read, so assume the largest.
        (format.coded_width, format.coded_height) = sequence.largest;
    }
    Ok(format)
}

impl Av1Picture {
    /// Copies the sequence headers and the frames, and drops all other OBUs.
    pub fn read(av1c: &[u8], data: &[u8]) -> Result<Self, Fault> {
        let head = ByteReader(av1c).take(4)?;
        let mut units = Vec::new();
        let configuration = Obus(ByteReader(av1c.get(4..).unwrap_or_default()));
        for unit in configuration.chain(Obus(ByteReader(data))) {
            let unit = unit?;
            if !matches!(
                unit.kind,
                SEQUENCE_HEADER | FRAME_HEADER | TILE_GROUP | FRAME
            ) {
                continue;
            }
            match *unit.head {
                // Add a length: an OBU without one would extend to the end of the data.
                [first] if first & 2 == 0 => units.push(first | 2),
                [first, extension] if first & 2 == 0 => units.extend([first | 2, extension]),
                _ => {
                    units.extend_from_slice(unit.whole);
                    continue;
                }
            }
            let mut length = unit.content.len();
            while length > 0x7f {
                units.push(length as u8 | 0x80);
                length >>= 7;
            }
            units.push(length as u8);
            units.extend_from_slice(unit.content);
        }
        Ok(Av1Picture {
            configuration: head.to_vec(),
            data: units,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct SequenceHeader {
    format: CodedFormat,
    /// The largest size that a frame header can state.
    largest: (u32, u32),
    /// `reduced_still_picture_header`: frame headers have none of the fields below, and no size.
    reduced: bool,
    /// Bits of the presentation time in a frame header; 0 if there is none.
    time_bits: u32,
    /// Bits of the frame ID in a frame header; 0 if there is none.
    frame_id_bits: u32,
    /// `seq_force_screen_content_tools`: 0, 1 or [`SELECT`].
    forced_screen_content: u32,
    /// `seq_force_integer_mv`: 0, 1 or [`SELECT`].
    forced_integer_motion: u32,
}

impl SequenceHeader {
    /// Reads a sequence header (5.5.1).
    fn read(content: &[u8]) -> Result<Self, Fault> {
        let bits = &mut BitReader::new(content);
        let profile = bits.bits(3)?;
        bits.skip(1)?;
        let reduced = bits.flag()?;
        let time_bits = if reduced {
            bits.skip(5)?;
            0
        } else {
            Self::read_timing(bits)?
        };
        let (width_bits, height_bits) = (bits.bits(4)? + 1, bits.bits(4)? + 1);
        let (width, height) = (bits.bits(width_bits)? + 1, bits.bits(height_bits)? + 1);
        let mut frame_id_bits = 0;
        if !reduced && bits.flag()? {
            let difference = bits.bits(4)? + 2;
            frame_id_bits = bits.bits(3)? + difference + 1;
        }
        bits.skip(3)?;
        let (mut forced_screen_content, mut forced_integer_motion) = (SELECT, SELECT);
        if !reduced {
            bits.skip(4)?;
            let ordered = bits.flag()?;
            if ordered {
                bits.skip(2)?;
            }
            if !bits.flag()? {
                forced_screen_content = bits.bits(1)?;
            }
            if forced_screen_content > 0 && !bits.flag()? {
                forced_integer_motion = bits.bits(1)?;
            }
            if ordered {
                bits.skip(3)?;
            }
        }
        bits.skip(3)?;
        let (depth, chroma, colours) = Self::read_colours(bits, profile)?;
        Ok(SequenceHeader {
            format: CodedFormat {
                width,
                height,
                coded_width: width,
                coded_height: height,
                chroma,
                depth,
                colours,
            },
            largest: (1 << width_bits, 1 << height_bits),
            reduced,
            time_bits,
            frame_id_bits,
            forced_screen_content,
            forced_integer_motion,
        })
    }

    /// Reads timing, decoder model and operating points (5.5.1, 5.5.3 to 5.5.5). Returns the bits of
    /// the presentation time in a frame header.
    fn read_timing(bits: &mut BitReader<'_>) -> Result<u32, Fault> {
        let (mut equal, mut model, mut delay_bits, mut time_bits) = (false, false, 0, 0);
        if bits.flag()? {
            bits.skip(64)?;
            equal = bits.flag()?;
            if equal {
                bits.golomb()?;
            }
            model = bits.flag()?;
            if model {
                delay_bits = bits.bits(5)? + 1;
                bits.skip(32 + 5)?;
                time_bits = bits.bits(5)? + 1;
            }
        }
        let initial_delay = bits.flag()?;
        for _ in 0..=bits.bits(5)? {
            bits.skip(12)?;
            if bits.bits(5)? > 7 {
                bits.skip(1)?;
            }
            if model && bits.flag()? {
                bits.skip(2 * delay_bits + 1)?;
            }
            if initial_delay && bits.flag()? {
                bits.skip(4)?;
            }
        }
        Ok(if equal { 0 } else { time_bits })
    }

    /// Reads `color_config` (5.5.2).
    fn read_colours(
        bits: &mut BitReader<'_>,
        profile: u32,
    ) -> Result<(u32, ChromaFormat, Colours), Fault> {
        let high = bits.flag()?;
        let depth = match (high, profile) {
            (false, _) => 8,
            (true, 2) if bits.flag()? => 12,
            (true, _) => 10,
        };
        let grey = profile != 1 && bits.flag()?;
        let mut colours = Colours::UNKNOWN;
        if bits.flag()? {
            colours.primaries = bits.bits(8)? as u16;
            colours.transfer = bits.bits(8)? as u16;
            colours.matrix = bits.bits(8)? as u16;
        }
        if !grey && (colours.primaries, colours.transfer, colours.matrix) == (1, 13, 0) {
            // sRGB with the identity matrix: range and subsampling are implied.
            colours.full_range = true;
            return Ok((depth, ChromaFormat::Full, colours));
        }
        colours.full_range = bits.flag()?;
        let chroma = match profile {
            _ if grey => ChromaFormat::None,
            0 => ChromaFormat::Quarter,
            1 => ChromaFormat::Full,
            2 if depth < 12 => ChromaFormat::Half,
            2 => match bits.flag()? {
                false => ChromaFormat::Full,
                true if bits.flag()? => ChromaFormat::Quarter,
                true => ChromaFormat::Half,
            },
            _ => return Err(Fault::unsupported(format!("with AV1 profile {profile}"))),
        };
        Ok((depth, chroma, colours))
    }
}

/// Whether a frame header states a size of its own (5.9.2), for which a decoder allocates memory.
fn is_resized(sequence: &SequenceHeader, content: &[u8]) -> Result<bool, Fault> {
    const KEY: u32 = 0;
    const SWITCH: u32 = 3;
    if sequence.reduced {
        return Ok(false);
    }
    let bits = &mut BitReader::new(content);
    if bits.flag()? {
        // `show_existing_frame`: an earlier frame is shown.
        return Ok(false);
    }
    let kind = bits.bits(2)?;
    let shown = bits.flag()?;
    if shown {
        bits.skip(sequence.time_bits)?;
    } else {
        bits.skip(1)?;
    }
    if !(kind == SWITCH || kind == KEY && shown) {
        bits.skip(1)?;
    }
    bits.skip(1)?;
    let screen_content = match sequence.forced_screen_content {
        SELECT => bits.bits(1)?,
        fixed => fixed,
    };
    if screen_content == 1 && sequence.forced_integer_motion == SELECT {
        bits.skip(1)?;
    }
    bits.skip(sequence.frame_id_bits)?;
    Ok(kind == SWITCH || bits.flag()?)
}
