//! How many requests are worked on at once, and of whom: one caller that holds what it asks for takes nobody else's place.
//!
//! A place is taken once it is known who asks and before the body is read, and held until the answer is made. Health, metrics
//! and the description need none. Absent here: how long a body may take (`extract`), and how many connections there are
//! (`serve`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use postrail_schema::ids::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::ProblemDocument;
use crate::app::Caller;

/// The places of one API.
pub(crate) struct Rooms {
    asking: Arc<Semaphore>,
    hosts: Arc<Semaphore>,
    operators: Arc<Semaphore>,
    tenants: Arc<Semaphore>,
    of_tenant: Arc<Counts>,
    /// For documents of the whole state, which are large.
    documents: Arc<Semaphore>,
}

/// Places by tenant; of those that have none there is no entry.
type Counts = Mutex<HashMap<TenantId, usize>>;

/// A place that is taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_tenant: Option<OfTenant>,
}

#[derive(Debug)]
struct OfTenant {
    counts: Arc<Counts>,
    tenant: TenantId,
}

impl Rooms {
    pub(crate) fn new() -> Self {
        let [asking, hosts, operators, tenants, documents] =
            [ASKING_MAX, HOSTS_MAX, OPERATORS_MAX, TENANTS_MAX, DOCUMENTS_MAX]
                .map(|places| Arc::new(Semaphore::new(places)));
        Self { asking, hosts, operators, tenants, of_tenant: Arc::default(), documents }
    }

    /// While it is found out who asks.
    pub(crate) fn asking(&self) -> Result<Place, ProblemDocument> {
        take(&self.asking, "too many requests at once")
    }

    /// For a host of the fleet.
    pub(crate) fn host(&self) -> Result<Place, ProblemDocument> {
        take(&self.hosts, "too many requests of hosts at once")
    }

    /// For who is known.
    pub(crate) fn caller(&self, caller: &Caller) -> Result<Place, ProblemDocument> {
        let Caller::Tenant { tenant, .. } = caller else {
            return take(&self.operators, "too many requests of operators at once");
        };
        let own = OfTenant::take(&self.of_tenant, *tenant)?;
        Ok(Place { _of_tenant: Some(own), ..take(&self.tenants, "too many requests at once")? })
    }

    /// For a document of the whole state, beside the caller's place.
    pub(crate) fn document(&self) -> Result<Place, ProblemDocument> {
        take(&self.documents, "other documents are being worked on; come back in a second")
    }
}

fn take(places: &Arc<Semaphore>, busy: &str) -> Result<Place, ProblemDocument> {
    match Arc::clone(places).try_acquire_owned() {
        Ok(held) => Ok(Place { _of_all: held, _of_tenant: None }),
        Err(_) => Err(ProblemDocument::new(StatusCode::SERVICE_UNAVAILABLE, "busy", busy)),
    }
}

impl OfTenant {
    fn take(counts: &Arc<Counts>, tenant: TenantId) -> Result<Self, ProblemDocument> {
        let mut all = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(tenant).or_default();
        if *count >= TENANT_MAX {
            let detail = format!("{TENANT_MAX} requests of this tenant are being answered: wait for one of them");
            return Err(ProblemDocument::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail));
        }
        *count += 1;
        Ok(Self { counts: Arc::clone(counts), tenant })
    }
}

impl Drop for OfTenant {
    fn drop(&mut self) {
        let mut all = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = all.entry(self.tenant) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Of whom it is not known yet who they are; a proof takes a millisecond.
const ASKING_MAX: usize = 256;
const HOSTS_MAX: usize = 128;
const OPERATORS_MAX: usize = 128;
const TENANTS_MAX: usize = 256;
/// One tenant's of these.
const TENANT_MAX: usize = 32;
const DOCUMENTS_MAX: usize = postrail_schema::limits::STATE_REQUESTS_MAX;
