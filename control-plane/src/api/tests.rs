//! The API as its callers see it: the router in process, on temporary stores.
