//! Every bound of the product in one place, with its unit in its name, and checks of one against another.
//!
//! A queue, line, header count, body, cache or waiter without a constant here is a defect. What a peer sees when a
//! bound is met is said beside it.

use std::time::Duration;

// --- submission -----------------------------------------------------------------------------------------------------

/// Finished message, octets (the SMTP SIZE value): over it 552 5.3.4, HTTP 413.
pub const MESSAGE_BYTES_MAX: usize = 20 * 1024 * 1024;
/// A REST request body, octets: over it HTTP 413.
pub const REST_BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Addresses in one job or one SMTP transaction: over it 452 4.5.3, HTTP 422.
pub const JOB_RECIPIENTS_MAX: usize = 1_000;
/// References, campaigns and cost centres, characters.
pub const LABEL_CHARS_MAX: usize = 50;
/// Subject of a REST job, characters.
pub const SUBJECT_CHARS_MAX: usize = 500;
/// Attachments of one REST job.
pub const ATTACHMENTS_MAX: usize = 100;
/// User header fields (`xHeaders`) of one REST message.
pub const USER_HEADERS_MAX: usize = 50;
/// Octets of one user header value.
pub const USER_HEADER_BYTES_MAX: usize = 995;
/// Depth of nesting in a JSON body.
pub const JSON_DEPTH_MAX: usize = 32;
/// Values (of any kind, nested ones counted) in a JSON body: over it HTTP 400.
pub const JSON_VALUES_MAX: usize = 250_000;
/// Errors of one REST body that are reported together.
pub const REST_ERRORS_MAX: usize = 20;
/// Display name of a mailbox in a REST body, octets.
pub const DISPLAY_NAME_BYTES_MAX: usize = 256;
/// File name or content id of an attachment, octets.
pub const ATTACHMENT_NAME_BYTES_MAX: usize = 255;
/// How long an idempotency key is remembered.
pub const IDEMPOTENCY_TTL: Duration = Duration::from_secs(24 * 3600);
/// Idempotency keys remembered by one shard: over it 429 until the oldest expire.
pub const IDEMPOTENCY_KEYS_MAX: usize = 1_000_000;

// --- SMTP -----------------------------------------------------------------------------------------------------------

/// One command line with its CRLF, octets (RFC 5321 4.5.3.1.4 and the extensions that lengthen it): over it 500 5.5.2.
pub const SMTP_COMMAND_BYTES_MAX: usize = 4_096;
/// One AUTH response line, octets (RFC 4954 section 4).
pub const SMTP_AUTH_LINE_BYTES_MAX: usize = 12_288;
/// Octets that a client may send ahead of our replies: over it 421 4.7.0.
pub const SMTP_PIPELINE_BYTES_MAX: usize = 256 * 1024;
/// A username of a credential, octets.
pub const USERNAME_BYTES_MAX: usize = 255;
/// One reply line read from a receiver, octets; the rest of a longer line is dropped.
pub const SMTP_REPLY_LINE_BYTES_MAX: usize = 2_048;
/// Lines of one reply read from a receiver: over it the session ends as a protocol error.
pub const SMTP_REPLY_LINES_MAX: usize = 128;
/// A message that is sent with its envelope in one group (RFC 3030), octets; a larger one waits until its recipients are
/// taken.
pub const CHUNK_PIPELINED_BYTES_MAX: usize = 64 * 1024;
/// Transactions that are under way on one outgoing connection at most: what is in doubt when it breaks.
pub const SESSION_TRANSACTIONS_MAX: usize = 8;
/// Text that is kept of a receiver's reply for outcomes and events, octets; the rest is dropped.
pub const SMTP_REPLY_TEXT_BYTES_MAX: usize = 1_024;
/// Commands without a completed transaction in one session: over it 421.
pub const SMTP_IDLE_COMMANDS_MAX: u32 = 100;
/// Refused commands in one session: over it 421 4.7.0.
pub const SMTP_ERRORS_MAX: u32 = 20;
/// Failed authentications in one session: over it 421 4.7.0.
pub const SMTP_AUTH_FAILURES_MAX: u32 = 3;
/// One line of message content, octets without CRLF (RFC 5322 2.1.1): over it 550 5.6.0.
pub const MESSAGE_LINE_BYTES_MAX: usize = 998;
/// Header section of a message, octets: over it 550 5.6.0.
pub const HEADER_BYTES_MAX: usize = 256 * 1024;
/// Header fields of a message: over it 550 5.6.0.
pub const HEADER_FIELDS_MAX: usize = 1_000;
/// Received fields of a message (RFC 5321 6.3): over it 554 5.4.6.
pub const RECEIVED_FIELDS_MAX: usize = 50;
/// Local part of an address, octets (RFC 5321 4.5.3.1.1).
pub const LOCAL_PART_BYTES_MAX: usize = 64;
/// Domain of an address, octets (RFC 5321 4.5.3.1.2).
pub const DOMAIN_BYTES_MAX: usize = 255;
/// A path, octets (RFC 5321 4.5.3.1.3, lengthened by RFC 6531).
pub const PATH_BYTES_MAX: usize = 256 + 64;
/// A DSN envelope id as xtext, octets (RFC 3461 4.4).
pub const ENVID_BYTES_MAX: usize = 100;
/// An original recipient as xtext, octets (RFC 3461 4.2).
pub const ORCPT_BYTES_MAX: usize = 500;
/// Open submission sessions of one shard: over it 421 4.3.2.
pub const INTAKE_SESSIONS_MAX: usize = 10_000;
/// Open submission sessions of one peer address on one shard: over it 421 4.7.0.
pub const INTAKE_SESSIONS_PER_PEER_MAX: usize = 1_000;
/// Message bytes that one shard holds for unfinished submissions: over it 452 4.3.1, HTTP 503.
pub const INTAKE_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Inactivity of a submission session before 421 4.4.2 (RFC 5321 4.5.3.2.7).
pub const INTAKE_IDLE: Duration = Duration::from_secs(300);
/// Failed authentications of one peer address before it is refused for [`AUTH_PENALTY`].
pub const AUTH_FAILURES_PER_PEER_MAX: u32 = 10;
/// How long failures of a peer are remembered and, past the bound, refused (454 4.7.0, HTTP 429).
pub const AUTH_PENALTY: Duration = Duration::from_secs(60);
/// Peers whose authentication failures are remembered by one shard.
pub const AUTH_PEERS_MAX: usize = 10_000;

/// The shortest prefixes of networks from which a credential needs no secret, of IPv4 and of IPv6: over it 422.
pub const TRUSTED_PREFIX_MIN: (u8, u8) = (8, 16);
/// Listeners of one installation: over it 409.
pub const LISTENERS_MAX: usize = 256;
/// Hosts that one listener names: over it 422.
pub const LISTENER_HOSTS_MAX: usize = HOSTS_MAX;
/// Connections of one listener on one host that may be allowed: over what is allowed 421 4.3.2.
pub const LISTENER_CONNECTIONS_MAX: u32 = 1_000_000;
/// The least that a tenant's messages may be bounded to: what is added to a message is counted with it, about 2,000 octets.
pub const TENANT_MESSAGE_BYTES_MIN: usize = 8 * 1024;
/// Least octets of a message that a listener may allow.
pub const LISTENER_MESSAGE_BYTES_MIN: u32 = 1_024;
/// How long a listener may let a client say nothing, seconds.
pub const LISTENER_IDLE_S_MIN: u32 = 10;
pub const LISTENER_IDLE_S_MAX: u32 = 3_600;
/// Clients that a host tells why they are refused, at once: more are closed without a word.
pub const REFUSALS_MAX: usize = 256;
/// How often a listener that could not be opened is tried again, and certificates are looked at.
pub const LISTENER_RETRY: Duration = Duration::from_secs(5);

// --- HTTP -----------------------------------------------------------------------------------------------------------

/// Request line and header fields of an HTTP request, octets: over it 431.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header fields of an HTTP request: over it 431.
pub const HTTP_FIELDS_MAX: usize = 64;
/// Input kept while a request of the same connection is answered, octets: over it the connection is closed after the answer.
pub const HTTP_PIPELINE_BYTES_MAX: usize = 256 * 1024;
/// Requests on one connection before it is closed.
pub const HTTP_REQUESTS_MAX: u32 = 100_000;
/// Time to receive a request's head, or to stay idle between requests.
pub const HTTP_IDLE: Duration = Duration::from_secs(60);
/// Time to receive a whole body.
pub const HTTP_BODY: Duration = Duration::from_secs(300);

// --- spool and journal ------------------------------------------------------------------------------------------------

/// Alignment of a batch within a segment, octets (the unit of O_DIRECT).
pub const BLOCK_BYTES: usize = 4_096;
/// One segment file, octets.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// One frame with its header, octets; larger content is a chain of frames.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// One batch with its header, octets.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Frames waiting for the next batch of one log: over it the submitter is told to come back (452 4.3.1, HTTP 503).
pub const APPEND_QUEUE_MAX: usize = 16_384;
/// Octets waiting for the next batches of one log.
pub const APPEND_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Percent of the disk above which intake refuses, so that settlements can always be written (452 4.3.1, HTTP 507).
pub const SPOOL_HIGH_WATER_PERCENT: u8 = 90;
/// Octets of events that one shard keeps for a ledger that is away; over half of it intake slows, over it intake refuses.
pub const JOURNAL_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
/// Domains whose keys one step of a master key's rotation wraps anew: their records and chunks are one transaction.
pub const ROTATION_DOMAINS: usize = 32;
/// Journals that a control plane pulls at once; others wait their turn.
pub const JOURNAL_PULLS_MAX: usize = 64;
/// Octets of one answer to a journal pull.
pub const JOURNAL_PULL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// One buffer of events, octets.
pub const EVENTS_BYTES_MAX: usize = JOURNAL_PULL_BYTES_MAX;
/// How far a segment is filled when the file of the next one is made.
pub const SPARE_FROM_BYTES: u64 = SEGMENT_BYTES / 2;
/// Emptied segment files that one log keeps for reuse; more are removed.
pub const SEGMENTS_FREE_MAX: usize = 4;
/// Damaged segment files that one log sets aside for the operator; over it they are reused like others.
pub const SEGMENTS_DAMAGED_MAX: usize = 16;
/// Segment files of one log that are open at a time.
pub const SEGMENTS_OPEN_MAX: usize = 64;
/// Percent of a closed spool segment's octets under which what is live in it is copied away.
pub const SEGMENT_LIVE_PERCENT_MIN: u64 = 25;
/// Jobs that one round of compaction moves.
pub const COMPACTION_JOBS_MAX: usize = 4_096;
/// Damaged places that one replay tells one by one; the rest are counted.
pub const DAMAGE_REPORTS_MAX: usize = 1_000;
/// Pause before a log that could not begin a segment tries again (452 4.3.1, HTTP 507 meanwhile).
pub const LOG_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Least time between the beginnings of two batches of the spool, and of the journal: one sync is for all that came.
pub const SPOOL_GATHERING: Duration = Duration::from_millis(1);
pub const JOURNAL_GATHERING: Duration = Duration::from_millis(5);
/// Octets that wait for a batch from which on it begins at once.
pub const LOG_GATHER_BYTES: usize = 256 * 1024;
/// How often the spool looks at the disk's usage.
pub const SPOOL_USAGE_PERIOD: Duration = Duration::from_secs(2);
/// Octets of recent events that one shard keeps in memory, so that a ledger that keeps up reads no disk.
pub const JOURNAL_TAIL_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Long polls that wait on one journal; more are answered at once.
pub const JOURNAL_WAITERS_MAX: usize = 64;
/// Content bytes of fresh mail that one shard keeps in memory so that the first attempt reads no disk.
pub const FRESH_BYTES_MAX: usize = 32 * 1024 * 1024;

// --- schedule and egress ----------------------------------------------------------------------------------------------

/// Recipients that one shard holds in its schedule (waiting, ready or in flight): over it 452 4.3.1, HTTP 503.
pub const WAITING_RECIPIENTS_MAX: usize = 5_000_000;
/// How many of these only tenants with a reserve may take.
pub const WAITING_RECIPIENTS_RESERVED: usize = WAITING_RECIPIENTS_MAX / 10;
/// Largest reserve of a tenant, recipients a second.
pub const RESERVED_PER_S_MAX: u32 = 1_000_000;
/// Recipients of one outgoing transaction (RFC 5321 4.5.3.1.8 promises 100).
pub const TRANSACTION_RECIPIENTS_MAX: usize = 100;
/// Connections of one (source, site) by default.
pub const PATH_CONNECTIONS_MAX: usize = 10;
/// Mails on one connection by default.
pub const CONNECTION_MAILS_MAX: u32 = 1_000;
/// Mails on one connection that a shaping rule may allow.
pub const CONNECTION_MAILS_LIMIT_MAX: u32 = 1_000_000;
/// Providers: over it 409.
pub const PROVIDERS_MAX: usize = 1_000;
/// Host patterns of one provider or TLS rule: over it 422.
pub const PROVIDER_HOSTS_MAX: usize = 64;
/// Shaping rules: over it 409.
pub const SHAPING_RULES_MAX: usize = 10_000;
/// Pairs of TLS rules that a plan compares for hosts that exclude each other.
pub const TLS_RULE_PAIRS_MAX: usize = 200_000;
/// The count of a rate, whatever its period.
pub const RATE_COUNT_MAX: u32 = 1_000_000;
/// How much of a rate may be caught up at once: what is finer than timers is not spread.
pub const THROTTLE_CATCH_UP: Duration = Duration::from_millis(10);
/// After a start the first mail of a throttle waits out the rate's interval, up to so long: mail went out before the start.
pub const THROTTLE_START_WAIT_MAX: Duration = Duration::from_secs(60);
/// Groups of other shards that a path takes while it is throttled, and as many again of what is reserved; more go home and
/// come again.
pub const THROTTLED_WORKS_MAX: usize = 16;
/// What waits for its throttle longer than this is read from the spool when its turn comes.
pub const THROTTLED_FRESH_MAX: Duration = Duration::from_secs(5);
/// Campaigns of waiting mail that one shard tells apart: mail of more is throttled as if it had none.
pub const CAMPAIGNS_MAX: usize = 65_534;
/// Addresses that one outgoing session walks until it gives up (RFC 5321 5.1 asks for at least two).
pub const EGRESS_TARGETS_MAX: usize = 32;
/// Addresses of one host among them, so that a host with many does not crowd out the next one.
pub const EGRESS_TARGETS_PER_HOST_MAX: usize = 4;
/// Outgoing connections of one shard.
pub const EGRESS_SESSIONS_MAX: usize = 4_096;
/// Idle time before an outgoing connection is closed.
pub const EGRESS_IDLE: Duration = Duration::from_secs(5);
/// First retry after a transient failure.
pub const RETRY_DELAY_FIRST: Duration = Duration::from_secs(300);
/// Longest retry delay.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(4 * 3600);
/// Factor between retries, in percent.
pub const RETRY_FACTOR_PERCENT: u32 = 150;
/// The delays of a retry policy, seconds: over it 422.
pub const RETRY_DELAY_S_MAX: u32 = 7 * 24 * 3600;
/// The factor of a retry policy, percent: over it 422.
pub const RETRY_FACTOR_PERCENT_MAX: u32 = 1_000;
/// The expiry of a retry policy, seconds, from which and to which: outside 422.
pub const EXPIRY_S_MIN: u32 = 10;
pub const EXPIRY_S_MAX: u32 = 30 * 24 * 3600;
/// Age at which transactional mail expires.
pub const EXPIRY_TRANSACTIONAL: Duration = Duration::from_secs(24 * 3600);
/// Age at which other mail expires.
pub const EXPIRY_DEFAULT: Duration = Duration::from_secs(3 * 24 * 3600);
/// Jobs that one shard offers to another host at once; while it has no answer it offers no others.
pub const TRANSFER_JOBS_MAX: usize = 64;
/// Octets of content from which on no further job joins an offer; a larger job is offered alone.
pub const TRANSFER_BYTES: usize = 1024 * 1024;
/// Octets of one offer: the largest job, with what is said of its recipients.
pub const TRANSFER_BYTES_MAX: usize = REST_BODY_BYTES_MAX + 8 * 1024 * 1024;
/// Jobs that a shard looks at in one step, when it looks for what should be at another host.
pub const TRANSFER_SCAN_JOBS: usize = 1_024;
/// Offers that a host sends to others at once; more wait for one of them to end.
pub const TRANSFERS_AT_ONCE_MAX: usize = 16;
/// Shards of other hosts whose last offer a host remembers.
pub const TRANSFER_GIVERS_MAX: usize = 4_096;
/// Offers of one shard that are in memory at once: more wait until others have their answer.
pub const TRANSFERS_OUT_MAX: usize = 4;
/// How long a host that is to be emptied still accepts mail, though it has no addresses: what distributes submissions asks
/// by period whether it is ready, and takes a host out after a few answers.
pub const DRAIN_NOTICE: Duration = Duration::from_secs(10);
/// Jobs of other hosts that a shard remembers over its start, the last ones, so that it takes none of them twice.
pub const TRANSFERS_REMEMBERED_MAX: usize = 256 * 1024;
/// Octets of the answer to an offer.
pub const TRANSFER_ANSWER_BYTES_MAX: usize = 1_024;
/// How long a shard waits for the answer to an offer, until it makes it again.
pub const TRANSFER_ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Octets of offers that a host receives and works on at once: over it HTTP 503, and the giver comes again.
pub const TRANSFER_HELD_BYTES_MAX: usize = 4 * TRANSFER_BYTES_MAX;
/// Work that one shard may have handed to another and not heard of again.
pub const MESH_IN_FLIGHT_MAX: usize = 1_024;
/// How much of this only what is within a tenant's reserve may take.
pub const MESH_IN_FLIGHT_RESERVED: usize = MESH_IN_FLIGHT_MAX / 8;

// --- DNS --------------------------------------------------------------------------------------------------------------

/// Names in one shard's resolver cache.
pub const DNS_CACHE_MAX: usize = 100_000;
/// Questions in flight from one shard; more wait.
pub const DNS_QUERIES_MAX: usize = 1_024;
/// MX hosts of a domain that are looked at.
pub const MX_HOSTS_MAX: usize = 20;
/// Addresses of a host that are looked at.
pub const HOST_ADDRESSES_MAX: usize = 16;
/// CNAMEs followed for one name.
pub const CNAME_CHAIN_MAX: usize = 8;
/// Lookups of mail hosts open on one shard: over it the domain is deferred (4.4.3).
pub const DNS_LOOKUPS_MAX: usize = 16_384;
/// Name servers that are asked.
pub const DNS_SERVERS_MAX: usize = 8;
/// Attempts in a row that a name server leaves without an answer before it rests.
pub const DNS_SERVER_STRIKES_MAX: u32 = 3;
/// How long a name server rests: it is asked last meanwhile.
pub const DNS_SERVER_REST: Duration = Duration::from_secs(30);
/// Octets of an answer by UDP, as offered by EDNS; longer ones come by TCP.
pub const DNS_UDP_BYTES: u16 = 1_232;
/// Datagrams that do not answer the query they came for: over it the question is asked by TCP.
pub const DNS_STRAYS_MAX: u32 = 8;
/// An answer is remembered at least so long, whatever its TTL; a failure exactly so long.
pub const DNS_TTL_MIN: Duration = Duration::from_secs(5);
/// An answer is remembered at most so long.
pub const DNS_TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// A denial is remembered at most so long (RFC 2308 section 5).
pub const DNS_DENIAL_TTL_MAX: Duration = Duration::from_secs(3600);
/// A site name made of all host names, octets; a longer set is named by its first host and a hash.
pub const SITE_NAME_BYTES_MAX: usize = 120;
/// TLS sessions of receivers kept for resumption, of one policy.
pub const TLS_SESSIONS_MAX: usize = 4_096;
/// Authorities of receivers' certificates that a host is given beside those of the system; its start is refused beyond.
pub const RECEIVER_AUTHORITIES_MAX: usize = 256;

// --- configuration ----------------------------------------------------------------------------------------------------

/// One published snapshot, octets.
pub const SNAPSHOT_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Operations of one etcd transaction (its own default, `--max-txn-ops`).
pub const ETCD_OPERATIONS_MAX: usize = 128;
/// One request to etcd, octets: its own default is 1.5 MiB (`--max-request-bytes`), less what frames the operations.
pub const ETCD_REQUEST_BYTES_MAX: usize = 1_400_000;
/// Ids of one chunk of a publication: what changes together on the wire when one record does.
pub const CHUNK_IDS: u32 = 64;
/// Chunks of what has a name and no id, such as routes, of one kind: the chunk is drawn from the name.
pub const NAMED_CHUNKS: u32 = 256;
/// One chunk of a publication, octets.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Chunks of a publication.
pub const CHUNKS_MAX: usize = 32_768;
/// Regions: over it 409. A manifest has them all.
pub const REGIONS_MAX: usize = 64;
/// The manifest of a publication, octets.
pub const MANIFEST_BYTES_MAX: usize = 1_300_000;
/// Chunks that an advance to the next manifest tells of: over it that manifest is read whole.
pub const ADVANCE_CHUNKS_MAX: usize = 64;
/// Octets of chunks that go with an advance: over it they are read at their keys.
pub const ADVANCE_BYTES_MAX: usize = 64 * 1024;
/// An advance with all of that.
pub const ADVANCE_ENCODED_MAX: usize = ADVANCE_BYTES_MAX + 8 * 1024;
/// Tenants that one request tells a host the use of quotas of: over it 413.
pub const QUOTA_TELLS_MAX: usize = 1_000;
/// Largest quota of a tenant, recipients a UTC day: over it 422. A tenant that needs more needs no quota.
pub const QUOTA_PER_DAY_MAX: u64 = 100_000_000_000;
// A day of the largest reserve fits.
const _: () = assert!(RESERVED_PER_S_MAX as u64 * 86_400 <= QUOTA_PER_DAY_MAX);
/// UTC days that a host keeps the use of quotas of: today's, and the one before for who began before midnight.
pub const QUOTA_DAYS_MAX: usize = 2;
/// Suppressions of one tenant: over it 409 until some are deleted.
pub const SUPPRESSIONS_PER_TENANT_MAX: usize = 500_000;
/// Suppressions of all tenants of a region: over it 409, and the operator is told before.
pub const SUPPRESSIONS_MAX: usize = 1_500_000;
/// Percent of these from which on the operator is told.
pub const SUPPRESSIONS_HIGH_WATER_PERCENT: usize = 90;
/// Changes of suppressions that a ledger remembers, the last ones: a host that missed more takes the list whole.
pub const SUPPRESSION_CHANGES_MAX: u64 = 100_000;
/// How often a control plane that is asked counts all suppressions, and a host compares the list that it has.
pub const SUPPRESSIONS_COUNT_PERIOD: Duration = Duration::from_secs(3600);
pub const SUPPRESSIONS_LOOK_PERIOD: Duration = Duration::from_secs(600);
/// Suppressions that control planes of two regions compare at once; the answer has at most twice as many.
pub const MIRROR_ROWS: usize = 2_000;
/// Such a question, and such an answer, octets.
pub const MIRROR_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Resources of one kind (tenants, domains, credentials, …): over it 409.
pub const RESOURCES_MAX: usize = 100_000;
/// One request body of the control API, octets: over it 413.
pub const CONTROL_BODY_BYTES_MAX: usize = 1024 * 1024;
/// What a hash of a secret that is brought may cost: memory, passes and lanes of argon2id. A shard of a data plane computes it
/// for whoever authenticates, and does nothing else meanwhile.
pub const HASH_MEMORY_KIB_MAX: u32 = 19_456;
pub const HASH_PASSES_MAX: u32 = 2;
pub const HASH_LANES_MAX: u32 = 4;
/// A document of desired state, octets: over it 413.
pub const STATE_BYTES_MAX: usize = 96 * 1024 * 1024;
/// Documents of desired state that are worked on at once: over it 503.
pub const STATE_REQUESTS_MAX: usize = 2;
/// Resources that a plan tells one by one; the rest are counted.
pub const STATE_CHANGES_SHOWN_MAX: usize = 10_000;
/// What a record of the audit trail tells of a change, octets; further changes are counted.
pub const AUDIT_DETAIL_BYTES_MAX: usize = 16 * 1024;
/// Resources that one record of the audit trail names; the rest are counted.
pub const AUDIT_CHANGES_MAX: usize = 100;
/// One value in a record of the audit trail, octets; a longer one is cut, and says so.
pub const AUDIT_VALUE_BYTES_MAX: usize = 512;
/// Mistakes of one document that are reported together.
pub const STATE_ERRORS_MAX: usize = 100;
/// RSA keys that applying one document makes: over it 422, since each takes a tenth of a second of a CPU.
pub const STATE_KEYS_MADE_MAX: usize = 500;
/// Ranges of numbers that a configuration store has passed over, since others gave them. Beyond: the smallest are forgotten, and
/// what an import brings under one of their numbers gets another.
pub const SKIPPED_NUMBERS_MAX: usize = 64;
/// The largest number of a tenant, credential, source or domain that an imported document may have; a larger one is
/// refused.
pub const STATE_NUMBER_MAX: u32 = 0x7fff_ffff;
/// Parts of a change that one transaction of the store does not take, each of about a megabyte.
pub const STAGED_PARTS_MAX: usize = 120;
/// Records of one page of the control API.
pub const PAGE_RECORDS_MAX: u32 = 1_000;
/// Records of a page when the request names no limit.
pub const PAGE_RECORDS: u32 = 100;
/// Sources of one pool.
pub const POOL_MEMBERS_MAX: usize = 1_000;
/// Networks that a credential or an operator names.
pub const NETWORKS_MAX: usize = 64;
/// Accounts of operators: over it 409.
pub const OPERATORS_MAX: usize = 1_000;
/// Secrets of a credential that are valid at once.
pub const LIVE_SECRETS_MAX: usize = 2;

// --- addresses that move ------------------------------------------------------------------------------------------------

/// Octets of a host's name.
pub const HOST_NAME_BYTES_MAX: usize = 63;
/// Hosts of one installation that run or have addresses: one more is given none, and says so.
pub const HOSTS_MAX: usize = 100;
/// Names of hosts that an installation knows, those included that are gone and were not forgotten: one more is given no addresses.
pub const HOST_NAMES_MAX: usize = 1_000;
/// What a host says with a keepalive, octets.
pub const HOST_RECORD_BYTES_MAX: usize = 512 * 1024;
/// Addresses that one host is given.
pub const HOST_GRANTS_MAX: usize = 4_096;
/// One address that a host is given, as it is written, octets.
pub const GRANT_BYTES_MAX: usize = 256;
/// Grants that are written at once: those of all hosts that anything changes for. What is more is written in portions.
pub const STEP_GRANTS_MAX: usize = 5_000;
/// Addresses that a host says it has by its own configuration.
pub const HOST_OWN_ADDRESSES_MAX: usize = 4_096;
/// Capabilities that a host announces, or that a source asks for.
pub const CAPABILITIES_MAX: usize = 16;
/// Interfaces that a host names for addresses.
pub const HOST_NICS_MAX: usize = 16;
/// From when a keepalive was sent until what it holds may pass on to another host.
pub const ADDRESS_LEASE: Duration = Duration::from_secs(10);
/// The shortest and longest lease that may be configured.
pub const ADDRESS_LEASE_MIN: Duration = Duration::from_secs(6);
pub const ADDRESS_LEASE_MAX: Duration = Duration::from_secs(600);
/// What a host holds less than its lease: 1.25 s for the kernel, which counts an address's life in whole seconds and
/// looks a quarter of a second late; the rest for clocks that run apart, and for what was begun at the last moment.
pub const ADDRESS_LEASE_MARGIN: Duration = Duration::from_millis(2_500);
/// The part of a lease between two keepalives.
pub const ADDRESS_KEEPALIVES: u32 = 5;
/// How long what is in flight on an address may last that is to be given up.
pub const ADDRESS_RELEASE_PATIENCE: Duration = Duration::from_secs(60);
/// Addresses that are moved at a time for an even spread; those of hosts that are gone or drain are not counted.
pub const ALLOCATION_MOVES_MAX: usize = 32;
/// A control plane that heard nothing of its store for so long does not count the while against any host.
pub const OBSERVER_SILENCE_MAX: Duration = Duration::from_secs(2);
/// Connections of a path whose address has just come, and how long until they may double.
pub const MOVED_PATH_CONNECTIONS: usize = 1;
pub const MOVED_PATH_PERIOD: Duration = Duration::from_secs(30);

// --- sending domains --------------------------------------------------------------------------------------------------

/// How long a verified domain goes on sending while a needed record is missing or wrong.
pub const DOMAIN_GRACE: Duration = Duration::from_secs(5 * 24 * 3600);
/// How long the record of a DKIM key stays needed after the key has signed its last mail: receivers verify late, when they
/// have deferred or forwarded what they took.
pub const DKIM_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3600);
/// DKIM keys of one domain, of all stages.
pub const DOMAIN_KEYS_MAX: usize = 8;
/// The longest RSA key that signs: receivers need not verify longer ones (RFC 8301 section 3.2).
pub const DKIM_RSA_BITS_MAX: usize = 4_096;
/// Octets of a private key that is brought, as PEM.
pub const DKIM_PEM_BYTES_MAX: usize = 16 * 1024;
/// Days after which keys get successors by themselves: no fewer, since each one asks its owner to publish a record.
pub const DKIM_ROTATION_DAYS_MIN: u32 = 30;
/// Days after which keys may get successors at the latest.
pub const DKIM_ROTATION_DAYS_MAX: u32 = 3_650;
/// The last time that a person may tell, in milliseconds since 1970: the end of the year 9999.
pub const TIME_MS_MAX: u64 = 253_402_300_799_999;
/// How often a domain's records are checked.
pub const DOMAIN_CHECK_PERIOD: Duration = Duration::from_secs(24 * 3600);
/// How often they are checked while their owner works on them: unproved (in its first days) or failing.
pub const DOMAIN_CHECK_PERIOD_SHORT: Duration = Duration::from_secs(3600);
/// How long an unproved domain is checked at the shorter period.
pub const DOMAIN_CHECK_EAGER: Duration = Duration::from_secs(3 * 24 * 3600);
/// The time of one check: what is not known then is unreachable.
pub const DOMAIN_CHECK_TIMEOUT: Duration = Duration::from_secs(20);
/// A check that was asked for again within this time answers with the last one.
pub const DOMAIN_CHECK_PAUSE: Duration = Duration::from_secs(1);
/// Domains that are checked at once.
pub const DOMAIN_CHECKS_AT_ONCE: usize = 8;
/// Questions to name servers in one check.
pub const DOMAIN_CHECK_QUESTIONS_MAX: u32 = 150;
/// Records of one name that a check reads.
pub const DOMAIN_RECORDS_MAX: usize = 64;
/// Octets of one text record that a check reads.
pub const DOMAIN_TEXT_BYTES_MAX: usize = 4_096;
/// Characters of one text record that are kept and shown.
pub const DOMAIN_FOUND_CHARS_MAX: usize = 500;
/// Addresses of a pool that SPF is evaluated for.
pub const DOMAIN_SPF_ADDRESSES_MAX: usize = 16;
/// Domains of one tenant that it has added and not proved: over it 409.
pub const DOMAINS_UNPROVED_MAX: usize = 100;

// --- host -------------------------------------------------------------------------------------------------------------

/// Shards of one host.
pub const SHARDS_MAX: usize = 4_096;
/// The configuration file of `up`, octets.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// One file that `doctor` reads, octets: what is larger is as if it were not there.
pub const DOCTOR_FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Entries of one folder that `doctor` looks at.
pub const DOCTOR_ENTRIES_MAX: usize = 4_096;
/// CPUs that `doctor` knows of: the kernel's own bound is 8,192, of which no host has half.
pub const DOCTOR_CPUS_MAX: usize = 4_096;
/// Network interfaces that `doctor` examines.
pub const DOCTOR_NICS_MAX: usize = 64;
/// Source addresses that `doctor` examines, each with two or more questions to DNS.
pub const DOCTOR_SOURCES_MAX: usize = 256;

const _: () =
    assert!(ADDRESS_LEASE_MARGIN.as_millis() * 2 < ADDRESS_LEASE_MIN.as_millis(), "the shortest lease holds something");
const _: () = assert!(ADDRESS_LEASE_MIN.as_millis() <= ADDRESS_LEASE.as_millis(), "the default is allowed");
const _: () = assert!(HOST_GRANTS_MAX <= STEP_GRANTS_MAX, "what one host has is written at once");
const _: () = assert!(
    STEP_GRANTS_MAX * GRANT_BYTES_MAX + ETCD_OPERATIONS_MAX * 3 * 256 < ETCD_REQUEST_BYTES_MAX,
    "a portion of grants, with its keys and guards, fits a request"
);
const _: () = assert!(MOVED_PATH_CONNECTIONS <= PATH_CONNECTIONS_MAX, "a moved path starts low");
const _: () = assert!(CHUNK_BYTES_MAX < ETCD_REQUEST_BYTES_MAX, "a chunk fits a request");
const _: () = assert!(CHUNKS_MAX * 36 + REGIONS_MAX * 512 < MANIFEST_BYTES_MAX, "a manifest of all chunks is read");
const _: () = assert!(
    MANIFEST_BYTES_MAX + ADVANCE_ENCODED_MAX < ETCD_REQUEST_BYTES_MAX,
    "a manifest fits a request, with the way to it"
);
const _: () = assert!(
    10 * RESOURCES_MAX.div_ceil(CHUNK_IDS as usize) + 4 * NAMED_CHUNKS as usize <= CHUNKS_MAX,
    "all resources fit the chunks, if their ids are dense"
);
const _: () = assert!(DOCTOR_CPUS_MAX.is_multiple_of(32), "masks of CPUs are words of 32 bits");
const _: () = assert!(FRAME_BYTES_MAX <= BATCH_BYTES_MAX, "a batch holds at least one frame");
const _: () = assert!((BATCH_BYTES_MAX as u64) * 4 <= SEGMENT_BYTES, "a segment holds several batches");
const _: () =
    assert!(SEGMENTS_FREE_MAX > 0, "the highest sequence of a log outlives its segments in a free file's name");
const _: () = assert!(JOURNAL_PULL_BYTES_MAX <= BATCH_BYTES_MAX, "a pull gives at least one batch");
const _: () = assert!(SEGMENT_BYTES.is_multiple_of(BLOCK_BYTES as u64), "segments are whole blocks");
const _: () = assert!(MESSAGE_BYTES_MAX < REST_BODY_BYTES_MAX, "base64 of the largest message fits a REST body");
const _: () = assert!(JOB_RECIPIENTS_MAX <= u16::MAX as usize, "a recipient index has 16 bits");
const _: () = assert!(MESSAGE_BYTES_MAX < APPEND_BYTES_MAX, "the largest message can be queued");
const _: () = assert!(RETRY_FACTOR_PERCENT > 100, "retries back off");
const _: () = assert!(CAMPAIGNS_MAX < u16::MAX as usize, "a job's campaign has 16 bits");
const _: () = assert!(SPOOL_HIGH_WATER_PERCENT < 100, "room is left for settlements");
// A reason has 200 characters of up to four octets, and JSON puts a backslash before some.
const _: () = assert!(2 * MIRROR_ROWS * 2 * (PATH_BYTES_MAX + 800 + 64) < MIRROR_BODY_BYTES_MAX, "they fit, as JSON");
const _: () = assert!(SUPPRESSIONS_PER_TENANT_MAX * 2 < SUPPRESSIONS_MAX, "one tenant does not fill it for others");
const _: () = assert!(SUPPRESSIONS_MAX * (PATH_BYTES_MAX + 12) < SNAPSHOT_BYTES_MAX, "all suppressions fit a snapshot");
