# One HTML page and summary.json, made from results only.

on_the_fly = [
    "<results>/session/quality.star",
    "<results>/session/metrics.json",
    expand("<results>/ctf/shard_{shard}.star", shard=project.shards),
    expand("<results>/pick/shard_{shard}.star", shard=project.shards),
    project.shows_denoised,
]


# What keeps up with an acquisition (emflow watch): all that is made shard by shard, nothing that pools particles.
rule live:
    input:
        on_the_fly,
        expand("<results>/extract/shard_{shard}.star", shard=project.shards),


shown = [
    on_the_fly,
    project.selected,
    "<results>/extract/recentered/particles.star",
    "<results>/reconstruct/abinitio/metrics.json",
    "<results>/reconstruct/refine/metrics.json",
    project.wanted("reconstruct.ctf", "<results>/reconstruct/ctf/metrics.json"),
    "<results>/validate/metrics.json",
    "<results>/validate/local/metrics.json",
    "<results>/validate/particles/metrics.json",
    project.of("heterogeneity", "<results>/heterogeneity/metrics.json"),
    project.of("heterogeneity", "<results>/validate/states/metrics.json"),
    (
        ["<results>/reconstruct/classes/metrics.json"]
        if project.settings.section("reconstruct.classes").n_classes > 1
        else []
    ),
    ["<results>/simulate/metrics.json"] if project.settings.input.truth else [],
]


rule report:
    input:
        shown,
    output:
        page="<results>/report/index.html",
        summary="<results>/report/summary.json",
    log:
        "<results>/records/report/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        project=subpath(output.page, ancestor=2),
        folder=subpath(output.page, parent=True),
    shell:
        "emflow report {params.project} {params.folder} --record {log}"
