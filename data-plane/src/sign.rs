//! Stage *sign*, the pump: renders a copy, asks the core what to sign, and signs with aws-lc.
//!
//! Private keys are unsealed once and kept as ready contexts, by key id and sealed bytes, so that signing parses no key.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use postrail_core::base::{Map, MapSeed, Random, Timestamp};
use postrail_core::egress::{Capabilities, Transaction};
use postrail_core::mail::{BodyType, ForwardPath, Job};
use postrail_core::shard::Transact;
use postrail_core::sign::dkim::{self, BodyHash, Plan};
use postrail_core::sign::render::{self, SharedBody};
use postrail_core::sign::seven_bit;
use postrail_schema::ids::{KeyId, MessageId};
use postrail_schema::sealed::MasterKeys;
use postrail_schema::snapshot::{DkimKey, KeyAlgorithm};

/// Why a message cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("the private key {0} does not open with the master keys of this host")]
    Unseal(KeyId),
    #[error("the private key {0} is not a usable PKCS#8 key of its algorithm")]
    Key(KeyId),
    #[error("signing with key {0} failed")]
    Sign(KeyId),
}

enum KeyContext {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

struct Opened {
    sealed: Vec<u8>,
    context: Rc<KeyContext>,
}

/// The rendered body of a job with its hash.
struct Shared {
    job: MessageId,
    body: SharedBody,
    /// Made for the first copy that is signed.
    hash: OnceCell<BodyHash>,
}

/// The signer of one shard.
pub struct Signer {
    last: RefCell<Option<Rc<Shared>>>,
    masters: Arc<MasterKeys>,
    keys: RefCell<Map<KeyId, Opened>>,
}

impl Signer {
    /// A signer whose keys were sealed by one of `masters`.
    pub fn new(masters: Arc<MasterKeys>, random: &mut Random) -> Self {
        let keys = RefCell::new(MapSeed::new(random).map());
        Self { last: RefCell::default(), masters, keys }
    }

    /// The transaction that sends `transact` to a receiver with these capabilities: rendered, converted to 7 bits where
    /// the receiver needs that and the message allows it, and signed by every key of its domain and of the platform's.
    ///
    /// # Errors
    /// A key cannot be used: the mail waits rather than going out unsigned.
    pub fn transaction(
        &self,
        transact: &Transact,
        capabilities: &Capabilities,
        at: Timestamp,
    ) -> Result<Transaction, SignError> {
        let job = &transact.job;
        let shared = self.shared(job);
        let mut message = render::render_with(job, usize::from(transact.entry), &shared.body);
        let mut converted_hash = None;
        if message.eight_bit
            && !capabilities.eight_bit_mime
            && let Ok(converted) = seven_bit::convert(&message)
        {
            converted_hash = Some(dkim::body_hash(&converted.body));
            message = converted;
        }
        let signers = || transact.snapshot.signers(job.domain);
        if signers().next().is_some() {
            let hash =
                converted_hash.unwrap_or_else(|| *shared.hash.get_or_init(|| dkim::body_hash(shared.body.bytes())));
            let named = signers().map(|signer| (signer.name.as_str(), &signer.keys[..]));
            let plan = dkim::plan_with(&message, named, at, hash);
            message.signatures = self.sign_all(plan, || signers().flat_map(|signer| &signer.keys))?;
        }
        let recipients = transact.recipients.iter().map(|index| {
            let recipient = &job.recipients[usize::from(index.0)];
            ForwardPath { address: recipient.address.clone(), notify: recipient.notify, orcpt: recipient.orcpt.clone() }
        });
        let recipients: Vec<ForwardPath> = recipients.collect();
        let needs_utf8 = message.utf8_header
            || recipients.iter().any(|recipient| recipient.address.needs_smtp_utf8())
            || job.reverse_path.as_ref().is_some_and(|path| path.needs_smtp_utf8());
        Ok(Transaction {
            tag: u64::from(transact.attempt),
            reverse_path: job.reverse_path.clone(),
            body: if message.eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit },
            smtp_utf8: needs_utf8,
            ret: job.ret,
            envid: job.envid.clone(),
            recipients,
            message,
            chunk: transact.first,
        })
    }

    /// What the copies of `job` share, made once while its copies follow each other.
    fn shared(&self, job: &Job) -> Rc<Shared> {
        if let Some(shared) = self.last.borrow().as_ref().filter(|shared| shared.job == job.id) {
            return shared.clone();
        }
        let body = render::body(job);
        let shared = Rc::new(Shared { job: job.id, body, hash: OnceCell::new() });
        // After a job of one copy nothing follows: it does not displace one of many.
        if job.entries.len() > 1 {
            *self.last.borrow_mut() = Some(shared.clone());
        }
        shared
    }

    fn sign_all<'a, K: Iterator<Item = &'a DkimKey>>(
        &self,
        plan: Plan,
        keys: impl Fn() -> K,
    ) -> Result<bytes::Bytes, SignError> {
        let mut signatures = Vec::new();
        for request in plan.requests() {
            let key = keys().find(|key| key.id == request.key).ok_or(SignError::Key(request.key))?;
            signatures.push(self.sign(key, &request.digest)?);
        }
        Ok(plan.finish(signatures))
    }

    fn sign(&self, key: &DkimKey, digest: &[u8; 32]) -> Result<Vec<u8>, SignError> {
        match &*self.context(key)? {
            KeyContext::Ed25519(pair) => Ok(pair.sign(digest).as_ref().to_vec()),
            KeyContext::Rsa(pair) => {
                let digest =
                    digest::Digest::import_less_safe(digest, &digest::SHA256).map_err(|_| SignError::Sign(key.id))?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign_digest(&RSA_PKCS1_SHA256, &digest, &mut signature).map_err(|_| SignError::Sign(key.id))?;
                Ok(signature)
            }
        }
    }

    fn context(&self, key: &DkimKey) -> Result<Rc<KeyContext>, SignError> {
        if let Some(opened) = self.keys.borrow().get(&key.id)
            && opened.sealed == key.sealed_private_key
        {
            return Ok(opened.context.clone());
        }
        let der = self.masters.unseal(&key.sealed_private_key).map_err(|_| SignError::Unseal(key.id))?;
        let context = match key.algorithm {
            KeyAlgorithm::RsaSha256 => {
                KeyContext::Rsa(Box::new(RsaKeyPair::from_pkcs8(&der).map_err(|_| SignError::Key(key.id))?))
            }
            KeyAlgorithm::Ed25519Sha256 => KeyContext::Ed25519(Box::new(
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| SignError::Key(key.id))?,
            )),
        };
        let context = Rc::new(context);
        let opened = Opened { sealed: key.sealed_private_key.clone(), context: context.clone() };
        self.keys.borrow_mut().insert(key.id, opened);
        Ok(context)
    }
}
