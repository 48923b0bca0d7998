//! The stories: what Postrail promises, shown on the built binary with real counterparts.

mod bench;
mod delivery_content;
mod delivery_names;
mod delivery_receivers;
mod delivery_replies;
mod delivery_reports;
mod delivery_sources;
mod durability;
mod durability_disk;
mod durability_measure;
mod fleet_addresses;
mod fleet_configuration;
mod input_rest;
mod input_smtp;
mod input_start;
mod ledger_postgresql;
mod operations;
mod operations_control;
mod operations_doctor;
mod operations_domains;
mod operations_pinning;
mod operations_view;
mod submission_clients;
mod submission_idempotency;
mod submission_openapi;
mod submission_rest;
