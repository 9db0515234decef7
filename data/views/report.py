"""report.html: what a run was, how it went, and how its answers changed, as one page that needs nothing else."""
from data.views import curves


def write_report(args) -> None:
    """curves.png and report.html of a run. args: its settings."""
    curves.draw_run(args.out, args)
