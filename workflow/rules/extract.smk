# Cut out particles: binned for the first map, then finer and recentred for refinement. A shard's image
# stack lies beside its table and is not declared, so that a rerun keeps what is still good of it.
# Particles of micrographs that the first map knew nothing of are cut centred on their picks.


rule extract_run:
    input:
        "<results>/session/select/shard_{shard}.star",
        "<results>/ctf/shard_{shard}.star",
        "<results>/pick/shard_{shard}.star",
    output:
        "<results>/extract/shard_{shard}.star",
    log:
        "<results>/records/extract.run/shard_{shard}.json",
    retries: project.retries
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(4)
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        cfg=section("extract.run"),
    shell:
        "emflow extract run {input} {output}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


rule extract_join:
    input:
        shards=expand("<results>/extract/shard_{shard}.star", shard=project.shards),
        quality="<results>/session/quality.star",
        removed=[],
    output:
        "<results>/extract/particles.star",
    log:
        "<results>/records/extract.join/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        cfg=section("extract.join"),
        removed=lambda wildcards, input: [f"--removed={name}" for name in input.removed],
    shell:
        "emflow extract join {input.shards} --quality {input.quality} {params.removed:q} {output}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


rule extract_recenter:
    input:
        poses="<results>/reconstruct/abinitio/particles.star",
        ctf="<results>/ctf/shard_{shard}.star",
        picked="<results>/extract/shard_{shard}.star",
    output:
        "<results>/extract/recentered/shard_{shard}.star",
    log:
        "<results>/records/extract.recenter/shard_{shard}.json",
    retries: project.retries
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(4)
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        cfg=section("extract.recenter"),
    shell:
        "emflow extract recenter {input.poses} {input.ctf} {output} --picked {input.picked}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


use rule extract_join as extract_join_recentered with:
    input:
        shards=expand(
            "<results>/extract/recentered/shard_{shard}.star", shard=project.shards
        ),
        quality="<results>/session/quality.star",
        removed=project.removed,
    output:
        "<results>/extract/recentered/particles.star",
    log:
        "<results>/records/extract.join/recentered.json",
