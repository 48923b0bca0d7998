//! Manifests, and what leads from one to the next, as flatbuffers.

use flatbuffers::{FlatBufferBuilder, Vector, WIPOffset};

use super::{FORMAT, WireError, check_format, check_frame, verifier};
use crate::generated::manifest as wire;
use crate::ids::{RegionId, Revision};
use crate::limits::{ADVANCE_CHUNKS_MAX, ADVANCE_ENCODED_MAX, CHUNKS_MAX, MANIFEST_BYTES_MAX, REGIONS_MAX};
use crate::publication::{Advance, ChunkHash, ChunkKind, ChunkName, ChunkPlace, Manifest, ManifestHash};
use crate::region::Region;

/// The format of a manifest with regions. A reader of format 1 would take the chunks of all for its own, so it has to
/// refuse.
const FORMAT_REGIONS: u16 = 2;
const ADVANCE_IDENTIFIER: &str = "PRAD";

/// The buffer of `manifest`.
pub fn encode_manifest(manifest: &Manifest) -> Vec<u8> {
    let mut to = FlatBufferBuilder::with_capacity(64 + 32 * manifest.chunks.len());
    let chunks: Vec<_> =
        manifest.chunks().map(|ChunkName { place, hash, length }| chunk(place, hash, length)).collect();
    let has_regions = !manifest.regions.is_empty();
    let regions: Vec<_> = manifest.regions.iter().map(|region| put_region(&mut to, region)).collect();
    let chunk_regions: Vec<_> = manifest.chunks.keys().map(|place| place.region.map_or(0, |region| region.0)).collect();
    let args = wire::ManifestArgs {
        format: if has_regions { FORMAT_REGIONS } else { FORMAT },
        regions: has_regions.then(|| to.create_vector(&regions)),
        chunk_regions: has_regions.then(|| to.create_vector(&chunk_regions)),
        revision: manifest.revision.0,
        published_ms: manifest.published_ms,
        suppressions: manifest.suppressions,
        chunks: Some(to.create_vector(&chunks)),
    };
    let root = wire::Manifest::create(&mut to, &args);
    wire::finish_manifest_buffer(&mut to, root);
    to.finished_data().to_vec()
}

/// The manifest of a buffer.
///
/// # Errors
/// [`WireError`] when the bytes are no manifest, of a newer format, or name a place twice.
pub fn decode_manifest(bytes: &[u8]) -> Result<Manifest, WireError> {
    check_frame(bytes, wire::MANIFEST_IDENTIFIER, MANIFEST_BYTES_MAX)?;
    let root = wire::root_as_manifest_with_opts(&verifier(bytes.len()), bytes)?;
    if root.format() > FORMAT_REGIONS {
        return Err(WireError::NewerFormat { found: root.format() });
    }
    let chunks = root.chunks().map_or(0, |chunks| chunks.len());
    if chunks > CHUNKS_MAX {
        return Err(WireError::TooManyChunks { chunks, chunks_max: CHUNKS_MAX });
    }
    let mut manifest = Manifest {
        revision: Revision(root.revision()),
        published_ms: root.published_ms(),
        suppressions: root.suppressions(),
        regions: root.regions().into_iter().flatten().take(REGIONS_MAX).map(read_region).collect(),
        ..Manifest::default()
    };
    each_chunk(root.chunks(), root.chunk_regions(), |place, hash, length| {
        manifest.chunks.insert(place, (hash, length));
    })?;
    Ok(manifest)
}

/// The buffer of `advance`.
pub fn encode_advance(advance: &Advance) -> Vec<u8> {
    let mut to = FlatBufferBuilder::with_capacity(256 + 40 * advance.places.len() + advance.bytes.len());
    let chunks: Vec<_> = advance
        .places
        .iter()
        .map(|(place, is)| {
            is.map_or_else(|| chunk(*place, ChunkHash(0), 0), |(hash, length)| chunk(*place, hash, length))
        })
        .collect();
    let regions: Vec<_> = advance.places.iter().map(|(place, _)| place.region.map_or(0, |region| region.0)).collect();
    let hash = |hash: ManifestHash| wire::ManifestHash::new((hash.0 >> 64) as u64, hash.0 as u64);
    let (from, led) = (advance.from.map(hash), hash(advance.to));
    let args = wire::AdvanceArgs {
        format: FORMAT,
        revision: advance.revision.0,
        published_ms: advance.published_ms,
        suppressions: advance.suppressions,
        from: from.as_ref(),
        to: Some(&led),
        chunks: Some(to.create_vector(&chunks)),
        chunk_regions: regions.iter().any(|region| *region != 0).then(|| to.create_vector(&regions)),
        bytes: (!advance.bytes.is_empty()).then(|| to.create_vector(&advance.bytes)),
    };
    let root = wire::Advance::create(&mut to, &args);
    to.finish(root, Some(ADVANCE_IDENTIFIER));
    to.finished_data().to_vec()
}

/// The advance of a buffer.
///
/// # Errors
/// [`WireError`] when the bytes are no advance, of a newer format, name a place twice, or have not what they name.
pub fn decode_advance(bytes: &[u8]) -> Result<Advance, WireError> {
    check_frame(bytes, ADVANCE_IDENTIFIER, ADVANCE_ENCODED_MAX)?;
    let root = flatbuffers::root_with_opts::<wire::Advance<'_>>(&verifier(bytes.len()), bytes)?;
    check_format(root.format())?;
    let chunks = root.chunks().map_or(0, |chunks| chunks.len());
    if chunks > ADVANCE_CHUNKS_MAX {
        return Err(WireError::TooManyChunks { chunks, chunks_max: ADVANCE_CHUNKS_MAX });
    }
    let hash = |hash: &wire::ManifestHash| ManifestHash(u128::from(hash.high()) << 64 | u128::from(hash.low()));
    let mut advance = Advance {
        revision: Revision(root.revision()),
        published_ms: root.published_ms(),
        suppressions: root.suppressions(),
        from: root.from().map(hash),
        to: hash(root.to().ok_or(WireError::AdvanceEnd)?),
        places: Vec::with_capacity(chunks),
        bytes: root.bytes().map(|bytes| bytes.bytes().to_vec()).unwrap_or_default(),
    };
    each_chunk(root.chunks(), root.chunk_regions(), |place, hash, length| {
        advance.places.push((place, (length > 0).then_some((hash, length))));
    })?;
    let named: usize = advance.names().map(|name| name.length as usize).sum();
    if !advance.bytes.is_empty() && named != advance.bytes.len() {
        return Err(WireError::AdvanceBytes { named, found: advance.bytes.len() });
    }
    Ok(advance)
}

fn chunk(place: ChunkPlace, hash: ChunkHash, length: u32) -> wire::Chunk {
    wire::Chunk::new((hash.0 >> 64) as u64, hash.0 as u64, place.bucket, length, kind_to_wire(place.kind))
}

/// Tells each chunk, which are in order; `regions`: that of each.
fn each_chunk<'b>(
    chunks: Option<Vector<'b, wire::Chunk>>,
    regions: Option<Vector<'b, u32>>,
    mut tell: impl FnMut(ChunkPlace, ChunkHash, u32),
) -> Result<(), WireError> {
    let (mut regions, mut last) = (regions.into_iter().flatten(), None);
    for chunk in chunks.into_iter().flatten() {
        let region = regions.next().filter(|region| *region != 0).map(RegionId);
        let place = ChunkPlace { kind: kind_from_wire(chunk.kind())?, bucket: chunk.bucket(), region };
        let hash = ChunkHash(u128::from(chunk.hash_high()) << 64 | u128::from(chunk.hash_low()));
        if last.replace(place).is_some_and(|last| last >= place) {
            return Err(WireError::ChunkOrder { kind: place.kind.name(), bucket: place.bucket });
        }
        tell(place, hash, chunk.length());
    }
    Ok(())
}

fn put_region<'b>(to: &mut FlatBufferBuilder<'b>, region: &Region) -> WIPOffset<wire::Region<'b>> {
    let (name, submission_host) = (to.create_string(&region.name), to.create_string(&region.submission_host));
    let args = wire::RegionArgs { id: region.id.0, name: Some(name), submission_host: Some(submission_host) };
    wire::Region::create(to, &args)
}

fn read_region(region: wire::Region<'_>) -> Region {
    let (name, submission_host) = (region.name().to_owned(), region.submission_host().to_owned());
    Region { id: RegionId(region.id()), name, submission_host }
}

fn kind_to_wire(kind: ChunkKind) -> wire::ChunkKind {
    match kind {
        ChunkKind::Tenants => wire::ChunkKind::Tenants,
        ChunkKind::Credentials => wire::ChunkKind::Credentials,
        ChunkKind::Domains => wire::ChunkKind::Domains,
        ChunkKind::Sources => wire::ChunkKind::Sources,
        ChunkKind::Pools => wire::ChunkKind::Pools,
        ChunkKind::Routes => wire::ChunkKind::Routes,
        ChunkKind::Suspensions => wire::ChunkKind::Suspensions,
        ChunkKind::Signposts => wire::ChunkKind::Signposts,
        ChunkKind::RetryPolicies => wire::ChunkKind::RetryPolicies,
        ChunkKind::RoutingRules => wire::ChunkKind::RoutingRules,
        ChunkKind::Providers => wire::ChunkKind::Providers,
        ChunkKind::ShapingRules => wire::ChunkKind::ShapingRules,
        ChunkKind::Listeners => wire::ChunkKind::Listeners,
        ChunkKind::TlsRules => wire::ChunkKind::TlsRules,
    }
}

fn kind_from_wire(kind: wire::ChunkKind) -> Result<ChunkKind, WireError> {
    let known = ChunkKind::ALL.into_iter().find(|known| kind_to_wire(*known) == kind);
    known.ok_or(WireError::UnknownValue { field: "chunk kind", value: kind.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::ADVANCE_BYTES_MAX;

    const GOLDEN: &[u8] = include_bytes!("../../golden/manifest-1.bin");
    /// With regions.
    const GOLDEN_2: &[u8] = include_bytes!("../../golden/manifest-2.bin");
    /// With chunks of every kind.
    const GOLDEN_2A: &[u8] = include_bytes!("../../golden/manifest-2a.bin");
    const GOLDEN_ADVANCE: &[u8] = include_bytes!("../../golden/advance-1.bin");

    fn sample() -> Manifest {
        let place = ChunkPlace::everywhere;
        let chunks = [
            (place(ChunkKind::Tenants, 0), (ChunkHash(u128::MAX - 5), 300)),
            (place(ChunkKind::Tenants, 9), (ChunkHash(1 << 64), 1)),
            (place(ChunkKind::Suspensions, 0), (ChunkHash(7), 2)),
        ];
        Manifest {
            revision: Revision(12),
            published_ms: 1_795_000_000_123,
            suppressions: 3,
            chunks: chunks.into(),
            regions: vec![],
        }
    }

    fn regional() -> Manifest {
        let mut manifest = sample();
        let region =
            |id, name: &str, host: &str| Region { id: RegionId(id), name: name.into(), submission_host: host.into() };
        manifest.regions = vec![region(1, "eu", "mail.eu.example"), region(4, "us", "mail.us.example")];
        for (region, hash) in [(1, 8), (4, 9)] {
            let place = ChunkPlace { kind: ChunkKind::Tenants, bucket: 0, region: Some(RegionId(region)) };
            manifest.chunks.insert(place, (ChunkHash(hash), 100));
        }
        manifest.chunks.insert(ChunkPlace::everywhere(ChunkKind::Signposts, 0), (ChunkHash(10), 50));
        manifest
    }

    #[test]
    fn the_committed_bytes_are_read_and_written_as_ever() {
        assert_eq!(decode_manifest(GOLDEN).unwrap(), sample());
        assert_eq!(encode_manifest(&sample()), GOLDEN, "a change of the form needs a new format");
        assert_eq!(decode_manifest(GOLDEN_2).unwrap(), regional());
        assert_eq!(encode_manifest(&regional()), GOLDEN_2, "a change of the form needs a new format");
    }

    #[test]
    fn the_committed_bytes_name_chunks_of_every_kind() {
        let chunks = ChunkKind::ALL.map(|kind| (ChunkPlace::everywhere(kind, 1), (ChunkHash(kind as u128 + 1), 9)));
        let all = Manifest { chunks: chunks.into(), ..regional() };
        assert_eq!(decode_manifest(GOLDEN_2A).unwrap(), all);
        assert_eq!(encode_manifest(&all), GOLDEN_2A, "a change of the form needs a new format");
    }

    #[test]
    fn who_knows_no_regions_refuses_a_manifest_that_has_some() {
        let format = |bytes: &[u8]| wire::root_as_manifest(bytes).unwrap().format();
        assert_eq!((format(GOLDEN), format(GOLDEN_2)), (FORMAT, FORMAT_REGIONS));
    }

    fn advance() -> Advance {
        let place = |kind, bucket, region| ChunkPlace { kind, bucket, region };
        Advance {
            revision: Revision(13),
            published_ms: 1_795_000_000_456,
            suppressions: 3,
            from: Some(ManifestHash(u128::MAX - 9)),
            to: ManifestHash(3 << 64 | 4),
            places: vec![
                (place(ChunkKind::Tenants, 0, Some(RegionId(4))), Some((ChunkHash(11), 3))),
                (place(ChunkKind::Tenants, 9, None), None),
                (place(ChunkKind::Pools, 1, None), Some((ChunkHash(12), 2))),
            ],
            bytes: b"aaabb".to_vec(),
        }
    }

    #[test]
    fn the_committed_bytes_of_an_advance_are_read_and_written_as_ever() {
        assert_eq!(decode_advance(GOLDEN_ADVANCE).unwrap(), advance());
        assert_eq!(encode_advance(&advance()), GOLDEN_ADVANCE, "a change of the form needs a new format");
        for other in [
            Advance { from: None, places: Vec::new(), bytes: Vec::new(), ..advance() },
            Advance { bytes: Vec::new(), ..advance() },
        ] {
            assert_eq!(decode_advance(&encode_advance(&other)).unwrap(), other);
        }
    }

    #[test]
    fn an_advance_whose_bytes_are_not_those_of_its_chunks_is_refused() {
        let torn = Advance { bytes: b"aaab".to_vec(), ..advance() };
        assert!(matches!(decode_advance(&encode_advance(&torn)), Err(WireError::AdvanceBytes { named: 5, found: 4 })));
        assert!(matches!(decode_advance(GOLDEN), Err(WireError::Kind { .. })));
        assert!(matches!(decode_manifest(GOLDEN_ADVANCE), Err(WireError::Kind { .. })));
    }

    #[test]
    fn the_largest_advance_is_within_its_bound() {
        let length = (ADVANCE_BYTES_MAX / ADVANCE_CHUNKS_MAX) as u32;
        let place = |bucket| ChunkPlace { kind: ChunkKind::Domains, bucket, region: Some(RegionId(7)) };
        let places =
            (0..ADVANCE_CHUNKS_MAX as u32).map(|bucket| (place(bucket), Some((ChunkHash(1), length)))).collect();
        let largest = Advance { places, bytes: vec![7; ADVANCE_BYTES_MAX], ..advance() };
        assert_eq!(decode_advance(&encode_advance(&largest)).unwrap(), largest);
    }

    #[test]
    fn every_flipped_bit_of_the_committed_bytes_is_survived() {
        for golden in [GOLDEN, GOLDEN_2, GOLDEN_ADVANCE] {
            for at in 0..golden.len() * 8 {
                let mut bytes = golden.to_vec();
                bytes[at / 8] ^= 1 << (at % 8);
                let _ = decode_manifest(&bytes);
                let _ = decode_manifest(&bytes[..at / 8]);
                let _ = decode_advance(&bytes).map(|advance| advance.chunks());
                let _ = decode_advance(&bytes[..at / 8]);
            }
        }
    }

    #[test]
    fn a_place_that_is_named_twice_is_refused() {
        let mut to = FlatBufferBuilder::new();
        let chunk = wire::Chunk::new(0, 1, 4, 1, wire::ChunkKind::Pools);
        let chunks = Some(to.create_vector(&[chunk, chunk]));
        let args = wire::ManifestArgs { format: FORMAT, chunks, ..wire::ManifestArgs::default() };
        let root = wire::Manifest::create(&mut to, &args);
        wire::finish_manifest_buffer(&mut to, root);
        let refused = decode_manifest(to.finished_data());
        assert!(matches!(refused, Err(WireError::ChunkOrder { kind: "pools", bucket: 4 })));
    }

    #[test]
    fn the_largest_manifest_is_within_its_bound() {
        let place = |bucket| (ChunkPlace::everywhere(ChunkKind::Domains, bucket), (ChunkHash(1), 1));
        let manifest = Manifest { chunks: (0..CHUNKS_MAX as u32).map(place).collect(), ..Manifest::default() };
        assert_eq!(decode_manifest(&encode_manifest(&manifest)).unwrap(), manifest);
    }
}
