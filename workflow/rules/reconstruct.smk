# Poses and map: a first map from random starts, then refinement in two independent halves.


rule reconstruct_abinitio:
    input:
        project.particles,
    output:
        half1="<results>/reconstruct/abinitio/half1.mrc",
        half2="<results>/reconstruct/abinitio/half2.mrc",
        map="<results>/reconstruct/abinitio/map.mrc",
        mask="<results>/reconstruct/abinitio/mask.mrc",
        particles="<results>/reconstruct/abinitio/particles.star",
        fsc="<results>/reconstruct/abinitio/fsc.star",
        metrics="<results>/reconstruct/abinitio/metrics.json",
        verdicts="<results>/reconstruct/abinitio/verdicts.json",
    log:
        "<results>/records/reconstruct.abinitio/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(16)
    resources:
        gpu=project.gpu,
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        cfg=section("reconstruct.abinitio"),
        folder=subpath(output.map, parent=True),
    shell:
        "emflow reconstruct abinitio {input} {params.folder}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


rule reconstruct_refine:
    input:
        particles="<results>/extract/recentered/particles.star",
        start="<results>/reconstruct/abinitio/map.mrc",
        metrics="<results>/reconstruct/abinitio/metrics.json",
    output:
        half1="<results>/reconstruct/refine/half1.mrc",
        half2="<results>/reconstruct/refine/half2.mrc",
        map="<results>/reconstruct/refine/map.mrc",
        mask="<results>/reconstruct/refine/mask.mrc",
        particles="<results>/reconstruct/refine/particles.star",
        fsc="<results>/reconstruct/refine/fsc.star",
        metrics="<results>/reconstruct/refine/metrics.json",
        verdicts="<results>/reconstruct/refine/verdicts.json",
    log:
        "<results>/records/reconstruct.refine/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(16)
    resources:
        gpu=project.gpu,
        mem_mb=lambda wildcards, attempt: 32000 * attempt,
        runtime=lambda wildcards, attempt: 1440 * attempt,
    params:
        cfg=section("reconstruct.refine"),
        start=subpath(input.start, parent=True),
        folder=subpath(output.map, parent=True),
    shell:
        "emflow reconstruct refine {input.particles} {params.start} {params.folder}"
        " --json {params.cfg:q} --threads {threads} --record {log}"
