//! zring's background sockets: a context of its own for each side, whose Runner shares the side's core where sides are
//! pinned. Within the process both sides have one context, with a shard for each.

use std::sync::Arc;

use zring::{Context, DriverKind, Options, SocketType};

use crate::cli::Transport;
use crate::error::{Failure, Result};
use crate::subject::zring::{Kind, Sockets, config};
use crate::subject::{Case, Common};

/// The subject `zring-bg`: blocking calls on `zring::Socket`, without batch scopes.
pub const BACKGROUND: Sockets<Context> = Sockets::NEW;

impl Kind for Context {
    const NAME: &'static str = "zring-bg";

    type Batch = ();

    fn common(case: &Case) -> Result<Option<Common>> {
        if case.transport != Transport::Inproc {
            return Ok(None);
        }
        // Side B opens its socket first, and so gets the first shard.
        let runner_cores = case.pin.map_or(Vec::new(), |pin| vec![pin.b, pin.a]);
        let config = zring::Config { shards: 2, runner_cores, ..config(case) };
        let context = Self::with_config(config).map_err(Failure::library)?;
        Ok(Some(Arc::new(context)))
    }

    fn open(case: &Case, core: Option<usize>) -> Result<Self> {
        if let Some(context) = case.common::<Self>() {
            return Ok(Self::clone(&context));
        }
        let config = zring::Config { runner_cores: Vec::from_iter(core), ..config(case) };
        Self::with_config(config).map_err(Failure::library)
    }

    fn open_socket(
        &self,
        socket_type: SocketType,
        options: Options,
    ) -> Result<zring::Socket<Self>> {
        self.socket_with(socket_type, options).map_err(Failure::library)
    }

    fn open_batch(&self) -> Self::Batch {}

    fn driver_name(&self, _case: &Case) -> Option<&'static str> {
        match self.driver() {
            DriverKind::Uring => Some("uring"),
            DriverKind::Ready => Some("ready"),
            _ => None,
        }
    }
}
