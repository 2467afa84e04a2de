# emflow: from micrographs to a validated map.
#
#   snakemake --profile profiles/local --configfile FILE      run everything, or what is left of it
#   emflow plan FILE                                          say in words what that would do, and why
#
# Settings live in emflow/<room>/config.py, rules in workflow/rules/<room>.smk; see docs/running.md.
from snakemake.utils import min_version

from emflow.project.chain import open_chain
from emflow.project.site import fit_to_site

min_version("9.27")

project = open_chain(workflow)
section = project.section


pathvars:
    results=project.folder,


wildcard_constraints:
    shard=r"\d+",


onstart:
    from emflow.project.disk import require_space

    require_space(workflow)


for room in project.rooms:

    include: f"workflow/rules/{room}.smk"


# What the page shows is asked for beside the page: one that `emflow report` or `emflow watch` made of unfinished results
# must not pass for a finished run.
rule all:
    default_target: True
    input:
        shown,
        "<results>/report/index.html",


fit_to_site(workflow)
