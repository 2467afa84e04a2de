# What the page of a session of micrographs shows, and what keeps up with an acquisition.

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
    project.wanted(
        "heterogeneity.traverse", "<results>/heterogeneity/path/metrics.json"
    ),
    project.wanted("heterogeneity.check", "<results>/heterogeneity/check/metrics.json"),
    (
        ["<results>/reconstruct/classes/metrics.json"]
        if project.settings.section("reconstruct.classes").n_classes > 1
        else []
    ),
    ["<results>/simulate/metrics.json"] if project.settings.input.truth else [],
]
