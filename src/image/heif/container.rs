//! The items of a HEIF file (ISO/IEC 23008-12 and 14496-12): their types, locations, properties and
//! references.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;

use super::Fault;
use super::read::ByteReader;

/// The most items, extents, properties and references of a file, together. A few bytes of the file
/// become an entry of about a hundred bytes in memory. The largest grid needs a tenth of this number.
const MAX_ENTRIES: usize = 1 << 18;

/// The most properties of one item. Encoders write fewer than ten.
const MAX_PROPERTIES: usize = 255;

pub(super) struct Container<'a> {
    file: &'a [u8],
    /// The content of the box `idat`, which holds data of items inside `meta`.
    idat: &'a [u8],
    primary: u32,
    items: BTreeMap<u32, ContainerItem<'a>>,
    /// For each type of reference and each item that is referred to: the items that refer to it.
    referring: BTreeMap<([u8; 4], u32), Vec<u32>>,
    entries: EntryCount,
    /// The number of bytes that [`Self::data`] has copied.
    copied: Cell<usize>,
}

/// Counts entries, up to [`MAX_ENTRIES`].
#[derive(Default)]
struct EntryCount(usize);

impl EntryCount {
    fn add(&mut self) -> Result<(), Fault> {
        self.0 += 1;
        if self.0 > MAX_ENTRIES {
            return Err(Fault::damaged("it has too many items"));
        }
        Ok(())
    }
}

pub(super) struct ContainerItem<'a> {
    pub kind: [u8; 4],
    pub properties: Vec<Property<'a>>,
    /// References from this item: their type, and the items that they refer to.
    references: Vec<([u8; 4], Vec<u32>)>,
    encrypted: bool,
    location: Option<Location>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Property<'a> {
    pub name: [u8; 4],
    pub content: &'a [u8],
    /// A reader that does not know this property must not show the item.
    pub essential: bool,
}

struct Location {
    /// The construction method: 0 for offsets into the file, 1 for offsets into `idat`. Others are not
    /// read.
    method: u16,
    /// Whether the data are in another file.
    elsewhere: bool,
    /// The offsets and lengths of the pieces of the data.
    extents: Vec<(u64, u64)>,
}

impl<'a> ContainerItem<'a> {
    fn new(kind: [u8; 4], encrypted: bool) -> Self {
        ContainerItem {
            kind,
            properties: Vec::new(),
            references: Vec::new(),
            encrypted,
            location: None,
        }
    }

    /// The content of the first property of this name.
    pub fn property(&self, name: &[u8; 4]) -> Option<&'a [u8]> {
        let mut named = self
            .properties
            .iter()
            .filter(|property| property.name == *name);
        named.next().map(|property| property.content)
    }

    /// The items to which references of this type refer.
    pub fn references(&self, kind: &[u8; 4]) -> Vec<u32> {
        let of_kind = self.references.iter().filter(|(of, _)| of == kind);
        of_kind.flat_map(|(_, to)| to).copied().collect()
    }
}

impl<'a> Container<'a> {
    /// Reads the first `meta` box of a file. A file with a `moov` box counts as a sequence without a still
    /// picture, if it ends or is damaged before a `meta` box.
    pub fn read(file: &'a [u8]) -> Result<Self, Fault> {
        let mut rest = ByteReader(file);
        let mut sequence = false;
        while !rest.is_empty() {
            let (name, content) = match rest.next_box() {
                Ok(found) => found,
                Err(_) if sequence => break,
                Err(fault) => return Err(fault),
            };
            match &name {
                b"meta" => return Self::of_meta(file, content),
                b"moov" => sequence = true,
                b"mini" => return Err(Fault::unsupported("in its minimized form (mini)")),
                _ => {}
            }
        }
        Err(if sequence {
            Fault::unsupported("a sequence without a still picture")
        } else {
            Fault::cut_short()
        })
    }

    fn of_meta(file: &'a [u8], content: &'a [u8]) -> Result<Self, Fault> {
        let mut rest = ByteReader(content);
        rest.version()?;
        let mut named = BTreeMap::new();
        while !rest.is_empty() {
            let (name, content) = rest.next_box()?;
            let known = matches!(
                &name,
                b"hdlr" | b"pitm" | b"iinf" | b"iloc" | b"iref" | b"iprp" | b"idat"
            );
            if known && named.insert(name, content).is_some() {
                return Err(Fault::damaged(format!("it has two {} boxes", shown(&name))));
            }
        }
        let find = |name: &[u8; 4]| {
            let missing = || Fault::damaged(format!("its {} box is missing", shown(name)));
            named.get(name).copied().ok_or_else(missing)
        };
        let handler = find(b"hdlr")?;
        if handler.get(8..12) != Some(b"pict") || !named.contains_key(b"pitm") {
            return Err(Fault::unsupported("without a still picture"));
        }
        let mut container = Container {
            file,
            idat: named.get(b"idat").copied().unwrap_or_default(),
            primary: primary(find(b"pitm")?)?,
            items: BTreeMap::new(),
            referring: BTreeMap::new(),
            entries: EntryCount::default(),
            copied: Cell::new(0),
        };
        container.read_items(find(b"iinf")?)?;
        container.read_locations(find(b"iloc")?)?;
        container.read_properties(find(b"iprp")?)?;
        if let Some(references) = named.get(b"iref") {
            container.read_references(references)?;
        }
        Ok(container)
    }

    pub fn primary(&self) -> u32 {
        self.primary
    }

    pub fn item(&self, id: u32) -> Result<&ContainerItem<'a>, Fault> {
        let missing = || Fault::damaged(format!("it refers to item {id}, which is missing"));
        self.items.get(&id).ok_or_else(missing)
    }

    /// The items with a reference of this type to the item `to`.
    pub fn referring(&self, kind: &[u8; 4], to: u32) -> Vec<u32> {
        let found = self.referring.get(&(*kind, to));
        found.cloned().unwrap_or_default()
    }

    /// The data of an item. Data that are stored in several extents are copied.
    pub fn data(&self, item: &ContainerItem<'a>) -> Result<Cow<'a, [u8]>, Fault> {
        if item.encrypted {
            return Err(Fault::unsupported("encrypted"));
        }
        let missing = || Fault::damaged("data of the picture are missing");
        let location = item.location.as_ref().ok_or_else(missing)?;
        let from = match (location.elsewhere, location.method) {
            (false, 0) => self.file,
            (false, 1) => self.idat,
            _ => return Err(Fault::unsupported("with data outside of the file")),
        };
        let part = |&(offset, length): &(u64, u64)| {
            let offset = usize::try_from(offset).ok()?;
            let end = offset.checked_add(usize::try_from(length).ok()?)?;
            from.get(offset..end)
        };
        if let [extent] = location.extents.as_slice() {
            return part(extent).map(Cow::Borrowed).ok_or_else(Fault::cut_short);
        }
        let mut data = Vec::new();
        for extent in &location.extents {
            let part = part(extent).ok_or_else(Fault::cut_short)?;
            // Without overlaps, all copies together are no longer than the file.
            self.copied
                .set(self.copied.get().saturating_add(part.len()));
            if self.copied.get() > self.file.len() {
                return Err(Fault::damaged("its items overlap"));
            }
            data.extend_from_slice(part);
        }
        Ok(Cow::Owned(data))
    }

    /// Reads `iinf`: the types of the items (ISO/IEC 14496-12, 8.11.6).
    fn read_items(&mut self, content: &[u8]) -> Result<(), Fault> {
        let mut rest = ByteReader(content);
        let (version, _) = rest.version()?;
        // Skip the number of items: the loop reads boxes up to the end.
        rest.take(if version == 0 { 2 } else { 4 })?;
        while !rest.is_empty() {
            let (name, content) = rest.next_box()?;
            self.entries.add()?;
            if name != *b"infe" {
                continue;
            }
            let mut rest = ByteReader(content);
            let (version, _) = rest.version()?;
            let id = match version {
                2 => u32::from(rest.u16()?),
                3 => rest.u32()?,
                // Versions 0 and 1 have no item type, and are not used for pictures.
                _ => continue,
            };
            let encrypted = rest.u16()? != 0;
            let item = ContainerItem::new(rest.fourcc()?, encrypted);
            if self.items.insert(id, item).is_some() {
                return Err(Fault::damaged(format!("it has two items {id}")));
            }
        }
        Ok(())
    }

    /// Reads `iloc`: the locations of the items (ISO/IEC 14496-12, 8.11.3).
    fn read_locations(&mut self, content: &[u8]) -> Result<(), Fault> {
        let mut rest = ByteReader(content);
        let (version, _) = rest.version()?;
        if version > 2 {
            return Err(Fault::unsupported(format!(
                "with version {version} of iloc"
            )));
        }
        let sizes = rest.u16()?;
        let size = |shift: u32| match sizes >> shift & 0xf {
            size @ (0 | 4 | 8) => Ok(usize::from(size)),
            _ => Err(Fault::damaged("its iloc box has fields of an invalid size")),
        };
        let (offset_size, length_size, base_size) = (size(12)?, size(8)?, size(4)?);
        let index_size = if version == 0 { 0 } else { size(0)? };
        let count = if version < 2 {
            u32::from(rest.u16()?)
        } else {
            rest.u32()?
        };
        for _ in 0..count {
            let id = if version < 2 {
                u32::from(rest.u16()?)
            } else {
                rest.u32()?
            };
            let method = if version == 0 { 0 } else { rest.u16()? & 0xf };
            let elsewhere = rest.u16()? != 0;
            let base = rest.number(base_size)?;
            let extents = rest.u16()?;
            let mut location = Location {
                method,
                elsewhere,
                extents: Vec::new(),
            };
            for _ in 0..extents {
                self.entries.add()?;
                rest.number(index_size)?;
                let offset = rest.number(offset_size)?;
                let offset = base.checked_add(offset).ok_or_else(Fault::cut_short)?;
                location.extents.push((offset, rest.number(length_size)?));
            }
            if let Some(item) = self.items.get_mut(&id)
                && item.location.replace(location).is_some()
            {
                return Err(Fault::damaged(format!("item {id} has two locations")));
            }
        }
        Ok(())
    }

    /// Reads `iprp`: the properties, and their associations with items (ISO/IEC 23008-12, 9.3).
    fn read_properties(&mut self, content: &'a [u8]) -> Result<(), Fault> {
        let mut rest = ByteReader(content);
        let mut properties = Vec::new();
        let mut associations = Vec::new();
        while !rest.is_empty() {
            let (name, content) = rest.next_box()?;
            match &name {
                b"ipco" if !properties.is_empty() => {
                    return Err(Fault::damaged("it has two ipco boxes"));
                }
                b"ipco" => {
                    let mut rest = ByteReader(content);
                    while !rest.is_empty() {
                        self.entries.add()?;
                        properties.push(rest.next_box()?);
                    }
                }
                b"ipma" => associations.push(content),
                _ => {}
            }
        }
        for content in associations {
            let mut rest = ByteReader(content);
            let (version, flags) = rest.version()?;
            let wide = flags & 1 == 1;
            for _ in 0..rest.u32()? {
                let id = if version == 0 {
                    u32::from(rest.u16()?)
                } else {
                    rest.u32()?
                };
                for _ in 0..rest.u8()? {
                    self.entries.add()?;
                    let association = if wide {
                        rest.u16()?
                    } else {
                        let narrow = u16::from(rest.u8()?);
                        (narrow & 0x80) << 8 | narrow & 0x7f
                    };
                    let (essential, index) = (association >> 15 == 1, association & 0x7fff);
                    let Some(index) = index.checked_sub(1) else {
                        continue;
                    };
                    let missing = || Fault::damaged("it refers to a property that is missing");
                    let missing_item =
                        || Fault::damaged("it has properties of a picture that is missing");
                    let found = properties.get(usize::from(index)).ok_or_else(missing)?;
                    let item = self.items.get_mut(&id).ok_or_else(missing_item)?;
                    if item.properties.len() == MAX_PROPERTIES {
                        return Err(Fault::damaged(
                            "one of its pictures has too many properties",
                        ));
                    }
                    item.properties.push(Property {
                        name: found.0,
                        content: found.1,
                        essential,
                    });
                }
            }
        }
        Ok(())
    }

    /// Reads `iref`: the references between items (ISO/IEC 14496-12, 8.11.12).
    fn read_references(&mut self, content: &[u8]) -> Result<(), Fault> {
        let mut rest = ByteReader(content);
        let (version, _) = rest.version()?;
        let id = |rest: &mut ByteReader<'_>| {
            if version == 0 {
                rest.u16().map(u32::from)
            } else {
                rest.u32()
            }
        };
        while !rest.is_empty() {
            let (kind, content) = rest.next_box()?;
            let mut rest = ByteReader(content);
            let from = id(&mut rest)?;
            let mut to = Vec::new();
            self.entries.add()?;
            for _ in 0..rest.u16()? {
                self.entries.add()?;
                to.push(id(&mut rest)?);
            }
            // These references connect a grid with its tiles, and transparency with its picture. Without one
            // of these items, the picture would be wrong.
            if matches!(&kind, b"auxl" | b"dimg" | b"prem") {
                self.item(from)?;
                for &to in &to {
                    self.item(to)?;
                }
            }
            if let Some(item) = self.items.get_mut(&from) {
                for &to in &to {
                    self.referring.entry((kind, to)).or_default().push(from);
                }
                item.references.push((kind, to));
            }
        }
        Ok(())
    }
}

/// Reads `pitm`: the ID of the primary item (ISO/IEC 14496-12, 8.11.4).
fn primary(content: &[u8]) -> Result<u32, Fault> {
    let mut rest = ByteReader(content);
    let (version, _) = rest.version()?;
    if version == 0 {
        rest.u16().map(u32::from)
    } else {
        rest.u32()
    }
}

/// A four-character code, escaped for messages.
pub(super) fn shown(name: &[u8; 4]) -> String {
    name.escape_ascii().to_string()
}
