//! The server: a socket, the runtime of its connections, and its end.

use super::app::{App, Phase, ServeOptions};
use super::connection::{Verdict, Watch, Watched};
use super::gate;
use super::limits::{CONNECTIONS, HEAD_BYTES};
use super::loaded::Loaded;
use super::registry::Offer;
use super::routes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Threads for connections: what they do takes microseconds.
const THREADS: usize = 2;
/// Threads that render and tokenize prompts.
const BLOCKING_THREADS: usize = 8;
/// Stack of each: templates recurse.
const STACK_BYTES: usize = 8 << 20;
/// Time between looks at deadlines.
const TICK: Duration = Duration::from_secs(1);
/// Time that answers get to be told of their end when they are cancelled.
const CANCEL_TIME: Duration = Duration::from_secs(3);
/// Time to wait when the system gives no connection, as when there are no more files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A server that is bound to an address.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    runtime: Runtime,
}

/// Handle of a server: adds models, and ends it.
#[derive(Clone)]
pub struct ServerHandle(Arc<App>);

impl ServerHandle {
    /// Adds a model, which requests find from now on.
    pub fn add(&self, model: Loaded) {
        self.0.add(model);
    }

    /// Adds a model that is loaded when it is asked for.
    pub fn offer(&self, offer: Offer) {
        self.0.registry.offer(offer);
    }

    /// Has a model that has been offered under that name be loaded; of no effect if there is none.
    pub fn put(&self, name: &str, model: Loaded) {
        self.0.registry.put(name, model);
    }

    /// Has the server say that it is ready: from now on models that have been offered are loaded when they
    /// are asked for.
    pub fn ready(&self) {
        self.0.make_ready();
    }

    /// Ends what is under way and begins nothing; then the server ends.
    pub fn drain(&self) {
        self.0.go_on(Phase::Draining);
    }
}

impl Server {
    /// A server at an address, which takes connections from now on and answers them in
    /// [`run`](Self::run).
    ///
    /// # Errors
    /// The address is not to be had, or the system has no threads.
    pub fn bind(address: SocketAddr, options: ServeOptions) -> io::Result<Server> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_stack_size(STACK_BYTES)
            .thread_name("teff-http")
            .enable_all()
            .build()?;
        Ok(Server { app: Arc::new(App::new(options)), listener, runtime })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// A handle.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle(self.app.clone())
    }

    /// Answers until the handle or SIGTERM ends it; a second SIGTERM waits for nothing.
    ///
    /// # Errors
    /// The socket is lost.
    pub fn run(self) -> io::Result<()> {
        let Server { app, listener, runtime } = self;
        let served = runtime.block_on(serve(app.clone(), listener));
        runtime.shutdown_background();
        // Tasks that nobody waits for may keep the rest alive, also when the process ends.
        #[cfg(feature = "otlp")]
        if let Some(traces) = &app.options.traces {
            traces.finish();
        }
        served
    }
}

async fn serve(app: Arc<App>, listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let router: Router = TowerToHyperService::new(routes::router(app.clone()));
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    tokio::spawn(watchdog(app.clone()));
    tokio::spawn(unload(app.clone()));
    tokio::spawn(end(app.clone()));
    #[cfg(unix)]
    tokio::spawn(terminate(app.clone()));
    let mut ended = pin!(app.reached(Phase::Ended));
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = permits.clone().acquire_owned().await.ok();
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            () = &mut ended => return Ok(()),
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (app, router) = (app.clone(), router.clone());
                tokio::spawn(async move {
                    connection(app, router, stream).await;
                    drop(permit);
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

type Router = TowerToHyperService<axum::Router>;

/// Answers the requests of a connection until it ends or is too slow.
async fn connection(app: Arc<App>, router: Router, stream: TcpStream) {
    let Ok(local) = stream.local_addr() else { return };
    // Tokens are small, and waiting for more makes streams stutter.
    let _ = stream.set_nodelay(true);
    let watch = Arc::new(Watch::new(app.options.limits));
    let stream = Watched::new(stream, watch.clone());
    let mut connection = pin!(requests(app, router, stream, watch.clone(), local.ip()));
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut connection => return,
            _ = ticks.tick() => {
                if watch.verdict() == Verdict::Close {
                    return;
                }
            }
        }
    }
}

/// Answers the requests of a connection, encrypted where the server has a certificate.
async fn requests(
    app: Arc<App>,
    router: Router,
    stream: Watched,
    watch: Arc<Watch>,
    local: IpAddr,
) {
    #[cfg(feature = "tls")]
    if let Some(tls) = app.options.tls.clone() {
        // Whoever greets wrongly is nobody to talk to.
        if let Ok(stream) = tls.accept(stream).await {
            answer(app, router, stream, watch, local).await;
        }
        return;
    }
    answer(app, router, stream, watch, local).await;
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    app: Arc<App>,
    router: Router,
    stream: S,
    watch: Arc<Watch>,
    local: IpAddr,
) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let request = request.map(axum::body::Body::new);
        gate::handle(app.clone(), router.clone(), watch.clone(), local, request)
    });
    let mut builder = http1::Builder::new();
    // The gate refuses heads beyond the limit in words; beyond this one the connection does, without.
    builder.max_buf_size(2 * HEAD_BYTES).header_read_timeout(None);
    // An error of the connection has nobody to be told to.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// Notices an engine that makes no step though there is work.
async fn watchdog(app: Arc<App>) {
    let mut ticks = interval(TICK);
    let limit = app.options.limits.stuck_time;
    loop {
        ticks.tick().await;
        let models = app.models();
        let stuck = models.iter().find(|model| model.is_stuck(limit));
        let was_stuck = app.is_stuck.swap(stuck.is_some(), Ordering::AcqRel);
        if let (Some(model), false, Some(log)) = (stuck, was_stuck, app.log.as_ref()) {
            let problem = format!("no step in {} s with work waiting", limit.as_secs());
            log(&serde_json::json!({ "error": problem, "model": model.id }));
        }
    }
}

/// Unloads models that have been idle for their time.
async fn unload(app: Arc<App>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let registry = app.registry.clone();
        // Memory is given back, which may take some time.
        let _ = tokio::task::spawn_blocking(move || registry.unload_idle()).await;
    }
}

/// Ends the server when it is told to: first what is under way, within its time.
async fn end(app: Arc<App>) {
    app.reached(Phase::Draining).await;
    wait_idle(&app, app.options.drain).await;
    app.go_on(Phase::Cancelling);
    wait_idle(&app, CANCEL_TIME).await;
    app.go_on(Phase::Ended);
}

/// Waits until no request is under way, at most so long.
async fn wait_idle(app: &App, time: Duration) {
    const LOOK: Duration = Duration::from_millis(20);
    let start = Instant::now();
    while app.n_active.load(Ordering::Acquire) > 0 && start.elapsed() < time {
        sleep(LOOK).await;
    }
}

#[cfg(unix)]
async fn terminate(app: Arc<App>) {
    use tokio::signal::unix::{SignalKind, signal};
    // Where the system lets nobody watch for it, it ends the process.
    let Ok(mut signals) = signal(SignalKind::terminate()) else { return };
    signals.recv().await;
    app.go_on(Phase::Draining);
    signals.recv().await;
    app.go_on(Phase::Ended);
}
