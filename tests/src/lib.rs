//! Test harness: doubles of the services around the agent, network namespaces, clients.

pub mod kube_api;
