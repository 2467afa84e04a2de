# Poses and map: a first map from random starts, then refinement in two independent halves. A frozen stage has no
# rule: what it made is an input (docs/increments.md).


if "reconstruct.abinitio" not in project.frozen:

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


if "reconstruct.refine" not in project.frozen:

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
        threads: project.threads(16 * max(1, project.gpus))
        resources:
            gpu=project.gpus,
            mem_mb=lambda wildcards, attempt: 32000 * attempt * max(1, project.gpus),
            runtime=lambda wildcards, attempt: 1440 * attempt,
        params:
            cfg=section("reconstruct.refine"),
            start=subpath(input.start, parent=True),
            folder=subpath(output.map, parent=True),
        shell:
            "emflow reconstruct refine {input.particles} {params.start} {params.folder}"
            " --previous {params.folder}/.previous"
            " --json {params.cfg:q} --threads {threads} --gpus {resources.gpu} --record {log}"


rule reconstruct_ctf:
    input:
        particles="<results>/reconstruct/refine/particles.star",
        half1="<results>/reconstruct/refine/half1.mrc",
        half2="<results>/reconstruct/refine/half2.mrc",
    output:
        particles="<results>/reconstruct/ctf/particles.star",
        metrics="<results>/reconstruct/ctf/metrics.json",
        verdicts="<results>/reconstruct/ctf/verdicts.json",
    log:
        "<results>/records/reconstruct.ctf/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(16)
    resources:
        gpu=project.gpu,
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        cfg=section("reconstruct.ctf"),
        refined=subpath(input.half1, parent=True),
        folder=subpath(output.metrics, parent=True),
    shell:
        "emflow reconstruct ctf {input.particles} {params.refined} {params.folder}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


# The maps for the eye are made on demand: snakemake … results/<project>/reconstruct/sharpen/map_local.mrc
rule reconstruct_sharpen:
    input:
        half1="<results>/reconstruct/refine/half1.mrc",
        half2="<results>/reconstruct/refine/half2.mrc",
        mask="<results>/reconstruct/refine/mask.mrc",
    output:
        map="<results>/reconstruct/sharpen/map_sharpened.mrc",
        local="<results>/reconstruct/sharpen/map_local.mrc",
        resolution="<results>/reconstruct/sharpen/local_resolution.mrc",
        metrics="<results>/reconstruct/sharpen/metrics.json",
        verdicts="<results>/reconstruct/sharpen/verdicts.json",
    log:
        "<results>/records/reconstruct.sharpen/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(4)
    resources:
        gpu=project.gpu,
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        cfg=section("reconstruct.sharpen"),
        folder=subpath(output.map, parent=True),
    shell:
        "emflow reconstruct sharpen {input.half1} {input.half2} {params.folder} --mask {input.mask}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


rule reconstruct_classes:
    input:
        particles="<results>/reconstruct/refine/particles.star",
        start="<results>/reconstruct/refine/map.mrc",
        mask=[
            str(name)
            for name in [project.settings.section("reconstruct.classes").mask]
            if name
        ],
    output:
        classes="<results>/reconstruct/classes/classes.star",
        particles="<results>/reconstruct/classes/particles.star",
        metrics="<results>/reconstruct/classes/metrics.json",
        verdicts="<results>/reconstruct/classes/verdicts.json",
    log:
        "<results>/records/reconstruct.classes/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(16)
    resources:
        gpu=project.gpu,
        mem_mb=lambda wildcards, attempt: 32000 * attempt,
        runtime=lambda wildcards, attempt: 1440 * attempt,
    params:
        cfg=section("reconstruct.classes"),
        start=subpath(input.start, parent=True),
        folder=subpath(output.classes, parent=True),
    shell:
        "emflow reconstruct classes {input.particles} {params.folder} --start {params.start}"
        " --json {params.cfg:q} --threads {threads} --record {log}"
