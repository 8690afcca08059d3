"""``contpeft store``: look after the versions a store holds."""

from __future__ import annotations

from typing import Any, Final

import typer
from typer.core import TyperGroup

from contpeft.cli import (
    store_attention,
    store_calibrate,
    store_change,
    store_compress,
    store_exchange,
    store_find,
    store_fuse,
    store_gate,
    store_inspect,
    store_show,
    store_transfer,
    store_upkeep,
)

__all__ = ["app"]


class Panels(TyperGroup):
    """A group whose help lists its commands under the headings they were given."""

    # Both are classes of a private module of typer.
    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the commands, heading by heading."""
        panels: dict[str, dict[str, Any]] = {}
        for name, command in self.commands.items():
            title = getattr(command, "rich_help_panel")  # noqa: B009 - the base class lacks it
            panels.setdefault(title, {})[name] = command
        for title, commands in panels.items():
            width = formatter.width - 6 - max(map(len, commands))
            with formatter.section(title):
                formatter.write_dl(
                    [(name, each.get_short_help_str(width)) for name, each in commands.items()]
                )


READ: Final = "Read"
WRITE: Final = "Write"
MERGE: Final = "Merge"
EXCHANGE: Final = "Exchange"
MAINTAIN: Final = "Maintain"

app = typer.Typer(help="Look after the versions a store holds.", no_args_is_help=True, cls=Panels)
app.command("list", rich_help_panel=READ, epilog=store_find.LIST_EXAMPLES)(store_find.list_versions)
app.command(rich_help_panel=READ, epilog=store_show.SHOW_EXAMPLES)(store_show.show)
app.command(rich_help_panel=READ, epilog=store_show.LOG_EXAMPLES)(store_show.log)
app.command(rich_help_panel=READ, epilog=store_show.TREE_EXAMPLES)(store_show.tree)
app.command(rich_help_panel=READ, epilog=store_show.DIFF_EXAMPLES)(store_show.diff)
app.command(rich_help_panel=READ, epilog=store_inspect.INSPECT_EXAMPLES)(store_inspect.inspect)
app.command(rich_help_panel=READ, epilog=store_attention.ATTENTION_EXAMPLES)(store_attention.attention)
app.command(rich_help_panel=READ, epilog=store_find.QUERY_EXAMPLES)(store_find.query)
app.command(rich_help_panel=READ, epilog=store_show.DU_EXAMPLES)(store_show.du)
app.command(rich_help_panel=READ, epilog=store_show.PATH_EXAMPLES)(store_show.path)
app.command(rich_help_panel=READ, epilog=store_gate.GATE_EXAMPLES)(store_gate.gate)
app.command(rich_help_panel=READ, epilog=store_calibrate.CALIBRATE_EXAMPLES)(store_calibrate.calibrate)
app.command(rich_help_panel=WRITE, epilog=store_change.TAG_EXAMPLES)(store_change.tag)
app.add_typer(store_change.alias_app, name="alias", rich_help_panel=WRITE)
app.command(rich_help_panel=WRITE, epilog=store_change.RENAME_EXAMPLES)(store_change.rename)
app.command(rich_help_panel=MERGE, epilog=store_fuse.FUSE_EXAMPLES)(store_fuse.fuse)
app.command(rich_help_panel=MERGE, epilog=store_fuse.RULES_EXAMPLES)(store_fuse.rules)
app.command(rich_help_panel=MERGE, epilog=store_fuse.VERIFY_EXAMPLES)(store_fuse.verify_recipe)
app.command(rich_help_panel=WRITE, epilog=store_compress.COMPRESS_EXAMPLES)(store_compress.compress)
app.command("prune-fusion", rich_help_panel=MERGE, epilog=store_attention.PRUNE_FUSION_EXAMPLES)(
    store_attention.prune_fusion
)
app.command(rich_help_panel=EXCHANGE, epilog=store_exchange.EXPORT_EXAMPLES)(store_exchange.export)
app.command("import", rich_help_panel=EXCHANGE, epilog=store_exchange.IMPORT_EXAMPLES)(
    store_exchange.import_folder
)
app.command(rich_help_panel=EXCHANGE, epilog=store_transfer.BUNDLE_EXAMPLES)(store_transfer.bundle)
app.command(rich_help_panel=EXCHANGE, epilog=store_transfer.UNBUNDLE_EXAMPLES)(store_transfer.unbundle)
app.command(rich_help_panel=EXCHANGE, epilog=store_transfer.PUSH_EXAMPLES)(store_transfer.push)
app.command(rich_help_panel=EXCHANGE, epilog=store_transfer.PULL_EXAMPLES)(store_transfer.pull)
app.add_typer(store_transfer.remote_app, name="remote", rich_help_panel=EXCHANGE)
app.command(rich_help_panel=MAINTAIN, epilog=store_upkeep.RM_EXAMPLES)(store_upkeep.rm)
app.command(rich_help_panel=MAINTAIN, epilog=store_upkeep.PRUNE_EXAMPLES)(store_upkeep.prune)
app.command(rich_help_panel=MAINTAIN, epilog=store_upkeep.GC_EXAMPLES)(store_upkeep.gc)
app.command(rich_help_panel=MAINTAIN, epilog=store_upkeep.FSCK_EXAMPLES)(store_upkeep.fsck)
app.command(rich_help_panel=MAINTAIN, epilog=store_upkeep.BACKUP_EXAMPLES)(store_upkeep.backup)
