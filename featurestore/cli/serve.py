"""`featurestore serve`: the HTTP server."""

import sys
from typing import Annotated

import typer

from featurestore.cli.options import DataDir, load_settings
from featurestore.cli.output import print_line

EXAMPLES = (
    "Examples: [bold]featurestore serve[/bold]   "
    "[bold]featurestore serve --host 0.0.0.0 --port 8080 --processes 4[/bold]   "
    "[bold]featurestore serve --clock event[/bold]"
)


def serve(
    host: Annotated[str | None, typer.Option(help="Overrides \\[serving] host.", show_default=False)] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Overrides \\[serving] port; 0 takes a free one.", show_default=False),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Overrides \\[serving] processes; one a core.", show_default=False)
    ] = None,
    clock: Annotated[
        str | None,
        typer.Option(
            help='"wall" reads as of now, "event" as of the newest event; overrides \\[serving] clock.',
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Serve features over HTTP until SIGTERM or Ctrl-C.

    POST /get-online-features (as Feast has it), GET /health, GET /ready, GET /metrics. Workers may start
    before or after it; /ready tells when there is something to read. When told to end, /ready turns 503 at once,
    and after \\[serving] drain_delay the requests under way are finished.
    """
    from featurestore.serving.limits import Limits
    from featurestore.serving.server import ServerOptions
    from featurestore.serving.server import serve as run

    settings = load_settings(
        serving__host=host,
        serving__port=port,
        serving__processes=processes,
        serving__clock=clock,
        store__data_dir=data_dir,
    )
    serving = settings.serving
    options = ServerOptions(
        data_dir=settings.store.data_dir,
        registry_place=settings.registry_place,
        host=serving.host,
        port=serving.port,
        processes=serving.processes,
        clock=serving.clock,
        refresh_interval_s=serving.refresh_interval_s,
        drain_delay_s=serving.drain_delay_s,
        limits=Limits(serving.max_body_bytes, serving.max_entities, serving.max_features),
    )

    def tell(url: str) -> None:
        print_line(f"serving {options.data_dir} at {url}")
        sys.stdout.flush()  # whoever started us in a pipe waits for this line

    run(options, on_listening=tell)
