# Check every micrograph, judge it, join the quality table. The lists of shards are written by
# emflow.project.chain before planning: append-only, so that a new micrograph changes one list.


rule session_check:
    input:
        lambda wildcards: project.shards[wildcards.shard],
    output:
        "<results>/session/check/shard_{shard}.star",
    log:
        "<results>/records/session.check/shard_{shard}.json",
    retries: project.retries
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(2)
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        cfg=section("session.check"),
    shell:
        "emflow session check {input} {output}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


rule session_select:
    input:
        check="<results>/session/check/shard_{shard}.star",
        ctf="<results>/ctf/shard_{shard}.star",
        pick="<results>/pick/shard_{shard}.star",
        assessed=project.assessed,
        labels=project.labels("session.select", "excluded_micrographs"),
    output:
        "<results>/session/select/shard_{shard}.star",
    log:
        "<results>/records/session.select/shard_{shard}.json",
    conda:
        "../../envs/emflow.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        cfg=section("session.select"),
        assessed=lambda wildcards, input: [
            f"--assessed={name}" for name in input.assessed
        ],
    shell:
        "emflow session select {input.check} {input.ctf} {input.pick} {output} {params.assessed:q}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


rule session_join:
    input:
        expand("<results>/session/select/shard_{shard}.star", shard=project.shards),
    output:
        micrographs="<results>/session/micrographs.star",
        set_aside="<results>/session/set_aside.star",
        quality="<results>/session/quality.star",
        metrics="<results>/session/metrics.json",
        verdicts="<results>/session/verdicts.json",
    log:
        "<results>/records/session.join/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        cfg=section("session.join"),
        folder=subpath(output.quality, parent=True),
    shell:
        "emflow session join {input} {params.folder}"
        " --json {params.cfg:q} --threads {threads} --record {log}"
