//! zring's background sockets: one context per side, whose Runner shares the side's core if sides are pinned. Over
//! inproc both sides share one context, with a shard for each.

use std::sync::Arc;

use ::zring::inline::POLLIN;
use ::zring::{Context, Options, PollItem, SocketType, poll};

use crate::cli::{Receive, Transport};
use crate::error::{Failure, Result};
use crate::subject::zring::{self, Kind, Sockets, config};
use crate::subject::{Case, Common, STALL, cannot_receive};

/// The subject `zring-bg`: blocking calls on `zring::Socket`, without batch scopes.
pub const BACKGROUND: Sockets<Context> = Sockets::NEW;

impl Kind for Context {
    const NAME: &'static str = "zring-bg";

    const SENDS: &'static str = "";

    type Batch = ();

    type Buffer = Vec<u8>;

    const REGISTERS: bool = false;

    const WRITES_IN_PLACE: bool = false;

    fn register(&self, _len: usize) -> Result<Self::Buffer> {
        Err(cannot_receive(Self::NAME, Receive::Registered))
    }

    fn common(case: &Case) -> Result<Option<Common>> {
        if case.transport != Transport::Inproc {
            return Ok(None);
        }
        // Side B has the first shard, side A the other.
        let runner_cores = case.pin.map_or(Vec::new(), |pin| vec![pin.b, pin.a]);
        let config = ::zring::Config { shards: 2, runner_cores, ..config(case) };
        let context = Self::with_config(config).map_err(Failure::library)?;
        Ok(Some(Arc::new(context)))
    }

    fn open(case: &Case, core: Option<usize>) -> Result<Self> {
        if let Some(context) = case.common::<Self>() {
            return Ok(Self::clone(&context));
        }
        let config = ::zring::Config { runner_cores: Vec::from_iter(core), ..config(case) };
        Self::with_config(config).map_err(Failure::library)
    }

    fn open_socket(
        &self,
        socket_type: SocketType,
        options: Options,
    ) -> Result<::zring::Socket<Self>> {
        let is_side_b = matches!(socket_type, SocketType::Pull | SocketType::Rep | SocketType::Sub);
        let shard = if is_side_b { 0 } else { self.shards() - 1 };
        self.socket_on(shard, socket_type, options).map_err(Failure::library)
    }

    fn open_batch(&self) -> Self::Batch {}

    fn turn(&self) -> Result<()> {
        // The Runner does the work.
        Ok(())
    }

    fn readable(sockets: &[::zring::Socket<Self>], is_readable: &mut Vec<bool>) -> Result<()> {
        let mut items: Vec<_> =
            sockets.iter().map(|socket| PollItem::new(socket, POLLIN)).collect();
        poll(&mut items, Some(STALL)).map_err(Failure::library)?;
        is_readable.clear();
        is_readable.extend(items.iter().map(PollItem::is_readable));
        Ok(())
    }

    fn driver_name(&self) -> Option<&'static str> {
        zring::driver_name(self.driver())
    }
}
