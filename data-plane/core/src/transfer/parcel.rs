//! An offer as octets, and the answer to it: what one host sends another.
//!
//! ```text
//! parcel = "PRPARCEL", u8 version, u8 flags (1: the giver is being emptied), u16 shard of the giver, u64 turn,
//!          u8 octets of the giver's name, name, u16 count of jobs, job*, u32 CRC-32C of all before
//! job    = u128 id, u16 hop at the taker, u32 octets, octets of spool::job_frame::encode_parcel_job
//! answer = "PRANSWER", u8 version, u64 turn of the parcel, u16 count, u8 fate*, u32 CRC-32C of all before
//! ```
//!
//! Numbers are little-endian. A job without octets is asked about only: the giver cannot send it (again), but the host may
//! have it. Invariants worth naming: a parcel has at most [`TRANSFER_BYTES_MAX`] octets and [`TRANSFER_JOBS_MAX`] jobs,
//! none of them twice; octets that are no parcel are told apart from a parcel of another version. Absent here: what is in
//! a job ([`crate::spool::job_frame`]).

use bytes::{Buf, Bytes, TryGetError};
use postrail_schema::allocation::HostName;
use postrail_schema::ids::{MessageId, ShardId};
use postrail_schema::limits::{TRANSFER_ANSWER_BYTES_MAX, TRANSFER_BYTES_MAX, TRANSFER_JOBS_MAX};

use super::{Fate, KeptReason, Offer};

const PARCEL_MAGIC: &[u8; 8] = b"PRPARCEL";
const ANSWER_MAGIC: &[u8; 8] = b"PRANSWER";
const VERSION: u8 = 1;
/// The only flag.
const LEAVING: u8 = 1;
const CRC_BYTES: usize = 4;
/// Octets of a job before its own.
const JOB_HEAD_BYTES: usize = 22;
/// Octets of an answer without its fates.
const ANSWER_BYTES: usize = 8 + 1 + 8 + 2 + CRC_BYTES;

const _: () = assert!(ANSWER_BYTES + TRANSFER_JOBS_MAX <= TRANSFER_ANSWER_BYTES_MAX, "every answer is taken");

/// Why octets are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParcelError {
    #[error("it is longer or shorter than it says")]
    Length,
    #[error("it does not begin as one")]
    Magic,
    #[error("it is of version {version}, and this host reads {VERSION}: let both hosts run the same release")]
    Version { version: u8 },
    #[error("it was spoilt on its way")]
    Spoilt,
    #[error("its {0} cannot be")]
    Value(&'static str),
}

impl From<TryGetError> for ParcelError {
    fn from(_: TryGetError) -> Self {
        Self::Length
    }
}

/// An offer as it comes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parcel {
    pub giver: HostName,
    pub shard: ShardId,
    pub turn: u64,
    pub is_leaving: bool,
    pub jobs: Vec<ParcelJob>,
}

/// One job of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParcelJob {
    pub message: MessageId,
    /// As it is here once it is taken.
    pub hop: u16,
    /// Empty: it is asked about only.
    pub octets: Bytes,
}

/// A parcel that is being filled.
#[derive(Debug)]
pub struct Draft {
    bytes: Vec<u8>,
    /// By job: it is in the parcel with its octets.
    sent: Vec<bool>,
    count_at: usize,
}

impl Draft {
    /// One for the jobs of `offer`, which are pushed in its order.
    pub fn new(giver: &HostName, shard: ShardId, offer: &Offer) -> Self {
        let mut bytes = PARCEL_MAGIC.to_vec();
        bytes.extend_from_slice(&[VERSION, if offer.is_leaving { LEAVING } else { 0 }]);
        bytes.extend_from_slice(&shard.0.to_le_bytes());
        bytes.extend_from_slice(&offer.turn.to_le_bytes());
        let name = giver.as_str().as_bytes();
        bytes.push(u8::try_from(name.len()).expect("a host's name has at most 63 octets"));
        bytes.extend_from_slice(name);
        let count_at = bytes.len();
        bytes.extend_from_slice(&[0; 2]);
        Self { bytes, sent: Vec::with_capacity(offer.jobs.len()), count_at }
    }

    /// The next job, with its octets where they are at hand. Those that have no room are left out.
    pub fn push(&mut self, message: MessageId, hop: u16, octets: Option<&[u8]>) {
        assert!(self.sent.len() < TRANSFER_JOBS_MAX, "an offer is bounded");
        // What is asked about only has room in any case.
        let heads = JOB_HEAD_BYTES * TRANSFER_JOBS_MAX + CRC_BYTES;
        let fits = |octets: &&[u8]| self.bytes.len() + octets.len() + heads <= TRANSFER_BYTES_MAX;
        let octets = octets.filter(fits);
        self.sent.push(octets.is_some());
        let octets = octets.unwrap_or_default();
        self.bytes.extend_from_slice(&message.bits().to_le_bytes());
        self.bytes.extend_from_slice(&hop.to_le_bytes());
        self.bytes.extend_from_slice(&(octets.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(octets);
    }

    /// The parcel, and what tells the answer to it.
    pub fn finish(self) -> (Bytes, Sent) {
        let Self { mut bytes, sent, count_at } = self;
        bytes[count_at..count_at + 2].copy_from_slice(&(sent.len() as u16).to_le_bytes());
        (sealed(bytes), Sent(sent))
    }
}

/// What of an offer was sent with its octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent(Vec<bool>);

impl Sent {
    /// The fates of the offer of that turn, in its order.
    ///
    /// # Errors
    /// The answer is not one, or is to another parcel.
    pub fn fates(&self, turn: u64, answer: &[u8]) -> Result<Vec<Fate>, ParcelError> {
        let mut rest = opened(answer, ANSWER_MAGIC)?;
        if rest.try_get_u64_le()? != turn {
            return Err(ParcelError::Value("turn"));
        }
        if usize::from(rest.try_get_u16_le()?) != self.0.len() {
            return Err(ParcelError::Value("count of fates"));
        }
        if rest.len() != self.0.len() {
            return Err(ParcelError::Length);
        }
        let fates = self.0.iter().zip(rest).map(|(is_sent, fate)| match fate_of(*fate) {
            Fate::Kept(_) if !is_sent => Fate::Kept(KeptReason::NotSent),
            fate => fate,
        });
        Ok(fates.collect())
    }
}

impl Parcel {
    /// What came.
    ///
    /// # Errors
    /// See [`ParcelError`].
    pub fn decode(bytes: &Bytes) -> Result<Self, ParcelError> {
        if bytes.len() > TRANSFER_BYTES_MAX {
            return Err(ParcelError::Length);
        }
        let mut rest = bytes.slice_ref(opened(bytes, PARCEL_MAGIC)?);
        let flags = rest.try_get_u8()?;
        if flags & !LEAVING != 0 {
            return Err(ParcelError::Value("flags"));
        }
        let shard = ShardId(rest.try_get_u16_le()?);
        let turn = rest.try_get_u64_le()?;
        let octets = rest.try_get_u8()?;
        let name = taken(&mut rest, octets.into())?;
        let giver = std::str::from_utf8(&name).ok().and_then(|name| HostName::new(name).ok());
        let giver = giver.ok_or(ParcelError::Value("giver's name"))?;
        let count = usize::from(rest.try_get_u16_le()?);
        if !(1..=TRANSFER_JOBS_MAX).contains(&count) {
            return Err(ParcelError::Value("count of jobs"));
        }
        let mut jobs: Vec<ParcelJob> = Vec::with_capacity(count);
        for _ in 0..count {
            let message = MessageId::from_bits(rest.try_get_u128_le()?);
            let hop = rest.try_get_u16_le()?;
            let octets = rest.try_get_u32_le()?;
            let octets = taken(&mut rest, octets as usize)?;
            if jobs.iter().any(|job| job.message == message) {
                return Err(ParcelError::Value("list of jobs"));
            }
            jobs.push(ParcelJob { message, hop, octets });
        }
        if !rest.is_empty() {
            return Err(ParcelError::Length);
        }
        Ok(Self { giver, shard, turn, is_leaving: flags & LEAVING != 0, jobs })
    }
}

/// The answer to the parcel of that turn: one fate a job, in its order.
pub fn encode_answer(turn: u64, fates: &[Fate]) -> Bytes {
    let mut bytes = ANSWER_MAGIC.to_vec();
    bytes.push(VERSION);
    bytes.extend_from_slice(&turn.to_le_bytes());
    bytes.extend_from_slice(&(fates.len() as u16).to_le_bytes());
    bytes.extend(fates.iter().map(|fate| tag_of(*fate)));
    sealed(bytes)
}

fn sealed(mut bytes: Vec<u8>) -> Bytes {
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.into()
}

/// What is between the version and the checksum.
fn opened<'a>(bytes: &'a [u8], magic: &[u8; 8]) -> Result<&'a [u8], ParcelError> {
    let rest = bytes.strip_prefix(magic).ok_or(ParcelError::Magic)?;
    let (version, rest) = rest.split_first().ok_or(ParcelError::Length)?;
    if *version != VERSION {
        return Err(ParcelError::Version { version: *version });
    }
    let (rest, crc) = rest.split_last_chunk::<CRC_BYTES>().ok_or(ParcelError::Length)?;
    let before = &bytes[..bytes.len() - CRC_BYTES];
    if crc32c::crc32c(before) == u32::from_le_bytes(*crc) { Ok(rest) } else { Err(ParcelError::Spoilt) }
}

fn taken(from: &mut Bytes, octets: usize) -> Result<Bytes, ParcelError> {
    if octets <= from.len() { Ok(from.split_to(octets)) } else { Err(ParcelError::Length) }
}

const fn tag_of(fate: Fate) -> u8 {
    match fate {
        Fate::Taken => 0,
        Fate::Kept(KeptReason::Leaving) => 1,
        Fate::Kept(KeptReason::NoRoom) => 2,
        Fate::Kept(KeptReason::NotHere) => 3,
        Fate::Kept(KeptReason::Unknown) => 4,
        // That it was not sent is the giver's to know.
        Fate::Kept(KeptReason::Unreadable | KeptReason::NotSent) => 5,
    }
}

/// A reason that this version does not know is a reason.
const fn fate_of(tag: u8) -> Fate {
    match tag {
        0 => Fate::Taken,
        1 => Fate::Kept(KeptReason::Leaving),
        2 => Fate::Kept(KeptReason::NoRoom),
        3 => Fate::Kept(KeptReason::NotHere),
        4 => Fate::Kept(KeptReason::Unknown),
        _ => Fate::Kept(KeptReason::Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TURN: u64 = 0x0102_0304_0506_0708;

    fn host(name: &str) -> HostName {
        HostName::new(name).expect("a host's name")
    }

    fn id(random: u64) -> MessageId {
        MessageId::new(1_795_464_845_123, ShardId(3), random)
    }

    fn offer() -> Offer {
        Offer { to: host("b"), turn: TURN, is_leaving: true, jobs: Vec::new() }
    }

    /// A job with octets, and one that is asked about.
    fn parcel() -> (Bytes, Sent) {
        let mut draft = Draft::new(&host("mx-1.example"), ShardId(7), &offer());
        draft.push(id(1), 1, Some(b"octets of a job"));
        draft.push(id(2), 300, None);
        draft.finish()
    }

    #[test]
    fn a_parcel_is_what_it_was_made_of() {
        let (bytes, _) = parcel();
        let jobs = vec![
            ParcelJob { message: id(1), hop: 1, octets: Bytes::from_static(b"octets of a job") },
            ParcelJob { message: id(2), hop: 300, octets: Bytes::new() },
        ];
        let want = Parcel { giver: host("mx-1.example"), shard: ShardId(7), turn: TURN, is_leaving: true, jobs };
        assert_eq!(Parcel::decode(&bytes), Ok(want));
    }

    #[test]
    fn what_version_1_wrote_is_read_for_ever() {
        let (bytes, sent) = parcel();
        let hex = |bytes: &[u8]| bytes.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
        assert_eq!(
            hex(&bytes),
            "505250415243454c0101070008070605040302010c6d782d312e6578616d706c650200\
             0100000000000080037043570b0aa20101000f0000006f6374657473206f662061206a6f62\
             0200000000000080037043570b0aa2012c0100000000\
             8beabcf3"
        );
        let answer = encode_answer(TURN, &[Fate::Taken, Fate::Kept(KeptReason::NoRoom)]);
        assert_eq!(hex(&answer), "5052414e53574552010807060504030201020000027c992641");
        let fates = vec![Fate::Taken, Fate::Kept(KeptReason::NotSent)];
        assert_eq!(sent.fates(TURN, &answer), Ok(fates), "the second had no octets");
    }

    #[test]
    fn every_fate_comes_back_and_an_unknown_one_is_a_refusal() {
        let reasons =
            [KeptReason::Leaving, KeptReason::NoRoom, KeptReason::NotHere, KeptReason::Unknown, KeptReason::Unreadable];
        let fates: Vec<Fate> = [Fate::Taken].into_iter().chain(reasons.map(Fate::Kept)).collect();
        let sent = Sent(vec![true; fates.len()]);
        assert_eq!(sent.fates(TURN, &encode_answer(TURN, &fates)), Ok(fates));
        let mut newer = encode_answer(TURN, &[Fate::Taken]).to_vec();
        newer.truncate(newer.len() - CRC_BYTES - 1);
        newer.push(77);
        assert_eq!(Sent(vec![true]).fates(TURN, &sealed(newer)), Ok(vec![Fate::Kept(KeptReason::Unreadable)]));
    }

    #[test]
    fn an_answer_to_another_parcel_is_none() {
        let answer = encode_answer(TURN, &[Fate::Taken]);
        assert_eq!(Sent(vec![true]).fates(TURN + 1, &answer), Err(ParcelError::Value("turn")));
        assert_eq!(Sent(vec![true; 2]).fates(TURN, &answer), Err(ParcelError::Value("count of fates")));
        assert_eq!(Sent(vec![true]).fates(TURN, b"<html>"), Err(ParcelError::Magic));
    }

    #[test]
    fn a_parcel_of_another_version_is_named_as_such() {
        let mut bytes = parcel().0.to_vec();
        bytes[8] = 9;
        assert_eq!(Parcel::decode(&bytes.into()), Err(ParcelError::Version { version: 9 }));
    }

    #[test]
    fn a_parcel_names_a_job_once_and_has_some() {
        let sealed_with = |jobs: &[MessageId]| {
            let mut draft = Draft::new(&host("a"), ShardId(0), &offer());
            jobs.iter().for_each(|job| draft.push(*job, 1, Some(b"x")));
            Parcel::decode(&draft.finish().0)
        };
        assert_eq!(sealed_with(&[id(1), id(2), id(1)]), Err(ParcelError::Value("list of jobs")));
        assert_eq!(sealed_with(&[]), Err(ParcelError::Value("count of jobs")));
        assert_eq!(sealed_with(&[id(1), id(2)]).map(|parcel| parcel.jobs.len()), Ok(2));
    }

    #[test]
    fn what_has_no_room_is_asked_about_only() {
        let large = vec![b'x'; TRANSFER_BYTES_MAX / 2];
        let mut draft = Draft::new(&host("a"), ShardId(0), &offer());
        draft.push(id(1), 1, Some(&large));
        draft.push(id(2), 1, Some(&large));
        for job in 3..=TRANSFER_JOBS_MAX as u64 {
            draft.push(id(job), 1, Some(b"small"));
        }
        let (bytes, sent) = draft.finish();
        let parcel = Parcel::decode(&bytes).expect("within its bound");
        let octets: Vec<usize> = parcel.jobs.iter().map(|job| job.octets.len()).collect();
        assert_eq!(octets[..3], [large.len(), 0, 5]);
        let fates = sent.fates(TURN, &encode_answer(TURN, &[Fate::Kept(KeptReason::Leaving); TRANSFER_JOBS_MAX]));
        let [first, second, ..] = fates.expect("as many as jobs")[..] else { panic!("64 fates") };
        assert_eq!([first, second], [KeptReason::Leaving, KeptReason::NotSent].map(Fate::Kept));
    }

    #[test]
    fn every_cut_and_every_spoilt_octet_is_refused() {
        let (bytes, sent) = parcel();
        let answer = encode_answer(TURN, &[Fate::Taken; 2]);
        for cut in 0..bytes.len() {
            assert!(Parcel::decode(&bytes.slice(..cut)).is_err(), "cut at {cut}");
        }
        for cut in 0..answer.len() {
            assert!(sent.fates(TURN, &answer[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut spoilt = bytes.to_vec();
            spoilt[at] ^= 0x10;
            assert!(Parcel::decode(&spoilt.into()).is_err(), "spoilt at {at}");
        }
        for at in 0..answer.len() {
            let mut spoilt = answer.to_vec();
            spoilt[at] ^= 0x10;
            assert!(sent.fates(TURN, &spoilt).is_err(), "spoilt at {at}");
        }
    }

    proptest! {
        #[test]
        fn any_parcel_comes_back(
            jobs in prop::collection::btree_map(any::<u128>(), (any::<u16>(), prop::collection::vec(any::<u8>(), 0..300)), 1..TRANSFER_JOBS_MAX),
            turn in any::<u64>(),
            shard in any::<u16>(),
            is_leaving in any::<bool>(),
        ) {
            let offer = Offer { turn, is_leaving, ..offer() };
            let mut draft = Draft::new(&host("a"), ShardId(shard), &offer);
            let mut want = Vec::new();
            for (bits, (hop, octets)) in jobs {
                let message = MessageId::from_bits(bits);
                draft.push(message, hop, Some(&octets));
                want.push(ParcelJob { message, hop, octets: octets.into() });
            }
            let want = Parcel { giver: host("a"), shard: ShardId(shard), turn, is_leaving, jobs: want };
            prop_assert_eq!(Parcel::decode(&draft.finish().0), Ok(want));
        }

        #[test]
        fn any_octets_are_read_without_panic(rest in prop::collection::vec(any::<u8>(), 0..200), is_parcel in any::<bool>()) {
            // With a true beginning and checksum, so that what is within is looked at.
            let mut bytes = if is_parcel { PARCEL_MAGIC } else { ANSWER_MAGIC }.to_vec();
            bytes.push(VERSION);
            bytes.extend(rest);
            let bytes = sealed(bytes);
            let _ = Parcel::decode(&bytes);
            let _ = Sent(vec![true; 3]).fates(TURN, &bytes);
        }

        #[test]
        fn spoilt_lengths_are_read_without_panic(at in 9_usize..80, value in any::<u8>()) {
            let mut bytes = parcel().0.to_vec();
            bytes.truncate(bytes.len() - CRC_BYTES);
            let at = at % bytes.len();
            bytes[at.max(9)] = value;
            let _ = Parcel::decode(&sealed(bytes));
        }
    }
}
