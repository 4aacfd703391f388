//! Bindings of `counterfoil-etcd`. Keys are passed as tuples, and errors are raised as the built-in
//! exceptions that `counterfoil.coordination.etcd` distinguishes.

use std::time::Duration;

use counterfoil_etcd::{Client, Error, KeyValue, Watch};
use pyo3::exceptions::{PyConnectionError, PyRuntimeError};
use pyo3::prelude::*;

/// Key, value, create revision, mod revision, lease.
type Row = (String, String, i64, i64, i64);

#[pyclass(frozen)]
pub struct Etcd(Client);

#[pymethods]
impl Etcd {
    #[new]
    fn new(
        py: Python<'_>,
        members: Vec<String>,
        user: Option<(String, String)>,
        root: String,
    ) -> PyResult<Self> {
        py.detach(|| Client::new(&members, user, root)).map(Self).map_err(raised)
    }

    fn range(&self, py: Python<'_>, prefix: &str, timeout: f64) -> PyResult<Vec<Row>> {
        let found = py.detach(|| self.0.range(prefix, seconds(timeout))).map_err(raised)?;
        Ok(found.into_iter().map(row).collect())
    }

    fn put(
        &self,
        py: Python<'_>,
        key: &str,
        value: &str,
        lease: i64,
        if_revision: Option<i64>,
        timeout: f64,
    ) -> PyResult<Option<Row>> {
        let written = py.detach(|| self.0.put(key, value, lease, if_revision, seconds(timeout)));
        Ok(written.map_err(raised)?.map(row))
    }

    fn grant(&self, py: Python<'_>, ttl_seconds: i64, timeout: f64) -> PyResult<(i64, i64)> {
        let lease = py.detach(|| self.0.grant(ttl_seconds, seconds(timeout))).map_err(raised)?;
        Ok((lease.id, lease.ttl_seconds))
    }

    fn keep_alive(&self, py: Python<'_>, lease: i64, timeout: f64) -> PyResult<bool> {
        py.detach(|| self.0.keep_alive(lease, seconds(timeout))).map_err(raised)
    }

    fn revoke(&self, py: Python<'_>, lease: i64, timeout: f64) -> PyResult<()> {
        py.detach(|| self.0.revoke(lease, seconds(timeout))).map_err(raised)
    }

    fn watch(&self, py: Python<'_>, prefix: &str) -> EtcdWatch {
        EtcdWatch(py.detach(|| self.0.watch(prefix)))
    }
}

#[pyclass(frozen)]
pub struct EtcdWatch(Watch);

#[pymethods]
impl EtcdWatch {
    fn next(&self, py: Python<'_>, timeout: f64) -> PyResult<Option<Vec<Row>>> {
        let found = py.detach(|| self.0.next(seconds(timeout))).map_err(raised)?;
        Ok(found.map(|keys| keys.into_iter().map(row).collect()))
    }
}

fn row(pair: KeyValue) -> Row {
    (pair.key, pair.value, pair.create_revision, pair.mod_revision, pair.lease)
}

fn seconds(timeout: f64) -> Duration {
    Duration::from_secs_f64(timeout.clamp(0.0, 3600.0))
}

fn raised(error: Error) -> PyErr {
    match error {
        Error::Unavailable(message) => PyConnectionError::new_err(message),
        Error::Refused { message, hint } => PyRuntimeError::new_err((message, hint)),
    }
}
