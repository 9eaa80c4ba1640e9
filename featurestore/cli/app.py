"""All commands, in the order in which `featurestore --help` lists them.

A new command is a file of its own and a line at the end of this one.
"""

from typing import Annotated

import typer

from featurestore.cli import (
    apply,
    backfill,
    backup,
    broker,
    check,
    compare,
    dead_letters,
    demo,
    get,
    init,
    jobs,
    late,
    lineage,
    listing,
    materialize,
    model,
    offline,
    plan,
    produce,
    rebuild,
    run,
    serve,
    show,
    status,
    training_check,
    training_set,
    unused,
    versions,
    view,
    watermark,
)

app = typer.Typer(
    help="A streaming feature store: Kafka in, RocksDB for inference, Parquet for training.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # a bug shows Python's own stack
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("featurestore"))
        raise typer.Exit


@app.callback()
def _common(
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error; the log goes to stderr.")] = "info",
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    from featurestore.observability import configure_logging

    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter("it is debug, info, warning or error", param_hint="--log-level")
    configure_logging(log_level)


app.command("demo", epilog=demo.EXAMPLES)(demo.demo)
app.command("init", epilog=init.EXAMPLES)(init.init)
app.command("plan", epilog=plan.EXAMPLES)(plan.plan)
app.command("apply", epilog=apply.EXAMPLES)(apply.apply)
app.command("versions", epilog=versions.VERSIONS_EXAMPLES)(versions.versions)
app.command("compare", epilog=compare.EXAMPLES)(compare.compare)
app.command("promote", epilog=versions.PROMOTE_EXAMPLES)(versions.promote)
app.command("rollback", epilog=versions.ROLLBACK_EXAMPLES)(versions.rollback)
app.command("canary", epilog=versions.CANARY_EXAMPLES)(versions.canary)
app.command("retire", epilog=versions.RETIRE_EXAMPLES)(versions.retire)
app.command("lineage", epilog=lineage.EXAMPLES)(lineage.lineage)
app.command("list", epilog=listing.LIST_EXAMPLES)(listing.list_definitions)
app.command("show", epilog=show.EXAMPLES)(show.show)
app.command("search", epilog=listing.SEARCH_EXAMPLES)(listing.search)
app.command("history", epilog=listing.HISTORY_EXAMPLES)(listing.history)
app.command("unused", epilog=unused.EXAMPLES)(unused.unused)
app.command("check", epilog=check.EXAMPLES)(check.check)
app.command("run", epilog=run.EXAMPLES)(run.run)
app.command("backfill", epilog=backfill.EXAMPLES)(backfill.backfill)
app.command("backup", epilog=backup.BACKUP_EXAMPLES)(backup.backup)
app.command("restore", epilog=backup.RESTORE_EXAMPLES)(backup.restore)
app.command("rebuild", epilog=rebuild.EXAMPLES)(rebuild.rebuild)
app.command("training-set", epilog=training_set.EXAMPLES)(training_set.training_set)
app.command("training-check", epilog=training_check.EXAMPLES)(training_check.training_check)
app.command("materialize", epilog=materialize.EXAMPLES)(materialize.materialize)
app.command("serve", epilog=serve.EXAMPLES)(serve.serve)
app.command("get", epilog=get.EXAMPLES)(get.get)
app.command("broker", epilog=broker.EXAMPLES)(broker.broker)
app.command("produce", epilog=produce.EXAMPLES)(produce.produce)
app.command("status", epilog=status.EXAMPLES)(status.status)
app.add_typer(jobs.app, name="jobs")
app.add_typer(offline.app, name="offline")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(late.app, name="late")
app.add_typer(view.app, name="view")
app.add_typer(watermark.app, name="watermark")
app.add_typer(model.app, name="model")
