# A volume: its slices looked at, a network trained on them, the gaps filled by many jobs, and what came of it judged.
# The images lie beside what is declared: each job writes its own blocks of them.

volume = project.settings.input.volume
labels = project.settings.input.labels
truth = project.settings.input.truth


rule vem_check:
    input:
        project.volume,
    output:
        table="<results>/vem/slices/slices.star",
        metrics="<results>/vem/slices/metrics.json",
        verdicts="<results>/vem/slices/verdicts.json",
    log:
        "<results>/records/vem.check/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(4)
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        cfg=section("vem.check"),
        volume=volume,
        folder=subpath(output.table, parent=True),
    shell:
        "emflow vem check {params.volume:q} {params.folder}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


rule vem_train:
    input:
        volume=project.volume,
        slices="<results>/vem/slices/slices.star",
    output:
        weights="<results>/vem/model/model.safetensors",
        manifest="<results>/vem/model/model.json",
        metrics="<results>/vem/model/metrics.json",
        verdicts="<results>/vem/model/verdicts.json",
    log:
        "<results>/records/vem.train/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(8)
    resources:
        gpu=project.gpu,
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 480 * attempt,
    params:
        cfg=section("vem.train"),
        volume=volume,
        folder=subpath(output.weights, parent=True),
    shell:
        "emflow vem train {params.volume:q} {params.folder} --slices {input.slices}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


# Before its parts, since two jobs must not create one image.
rule vem_begin:
    input:
        volume=project.volume,
        slices="<results>/vem/slices/slices.star",
        weights="<results>/vem/model/model.safetensors",
    output:
        "<results>/vem/begun.json",
    log:
        "<results>/records/vem.begin/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        cfg=section("vem.restore"),
        volume=volume,
        folder=subpath(output[0], parent=True),
    shell:
        "emflow vem begin {params.volume:q} {input.weights} {params.folder} {output} --slices {input.slices}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


rule vem_restore:
    input:
        part=lambda wildcards: project.parts[wildcards.part],
        slices="<results>/vem/slices/slices.star",
        weights="<results>/vem/model/model.safetensors",
        begun="<results>/vem/begun.json",
    output:
        "<results>/vem/parts/done_{part}.json",
    log:
        "<results>/records/vem.restore/part_{part}.json",
    retries: project.retries
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(4)
    resources:
        gpu=project.gpu,
        mem_mb=lambda wildcards, attempt: 6000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        cfg=section("vem.restore"),
        volume=volume,
        folder=subpath(input.begun, parent=True),
    shell:
        "emflow vem fill {params.volume:q} {input.weights} {params.folder} {output}"
        " --part {input.part} --slices {input.slices}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


rule vem_finish:
    input:
        volume=project.volume,
        slices="<results>/vem/slices/slices.star",
        weights="<results>/vem/model/model.safetensors",
        done=expand("<results>/vem/parts/done_{part}.json", part=project.parts),
    output:
        metrics="<results>/vem/metrics.json",
        verdicts="<results>/vem/verdicts.json",
    log:
        "<results>/records/vem.finish/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(4)
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        cfg=section("vem.restore"),
        volume=volume,
        folder=subpath(output.metrics, parent=True),
    shell:
        "emflow vem finish {params.volume:q} {input.weights} {params.folder} {input.done} --slices {input.slices}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


if labels:

    rule vem_train_membranes:
        input:
            volume=project.volume,
            labels=labels,
        output:
            weights="<results>/vem/membranes/model.safetensors",
            manifest="<results>/vem/membranes/model.json",
            metrics="<results>/vem/membranes/metrics.json",
            verdicts="<results>/vem/membranes/verdicts.json",
        log:
            "<results>/records/vem.train_membranes/all.json",
        conda:
            "../../envs/emflow.yaml"
        threads: project.threads(8)
        resources:
            gpu=project.gpu,
            mem_mb=lambda wildcards, attempt: 8000 * attempt,
            runtime=lambda wildcards, attempt: 240 * attempt,
        params:
            cfg=section("vem.train_membranes"),
            volume=volume,
            folder=subpath(output.weights, parent=True),
        shell:
            "emflow vem train-membranes {params.volume:q} {input.labels} {params.folder}"
            " --json {params.cfg:q} --threads {threads} --record {log}"

    rule vem_segment:
        input:
            restored="<results>/vem/metrics.json",
            weights="<results>/vem/membranes/model.safetensors",
        output:
            metrics="<results>/vem/segmentation.zarr/metrics.json",
            verdicts="<results>/vem/segmentation.zarr/verdicts.json",
        log:
            "<results>/records/vem.segment/all.json",
        conda:
            "../../envs/emflow.yaml"
        threads: project.threads(8)
        resources:
            gpu=project.gpu,
            mem_mb=lambda wildcards, attempt: 16000 * attempt,
            runtime=lambda wildcards, attempt: 720 * attempt,
        params:
            cfg=section("vem.segment"),
            restored=subpath(input.restored, parent=True),
            folder=subpath(output.metrics, parent=True),
        shell:
            "emflow vem segment {params.restored}/restored.zarr {input.weights} {params.folder}"
            " --json {params.cfg:q} --threads {threads} --record {log}"


# Of a simulated volume.
rule vem_score:
    input:
        "<results>/vem/metrics.json",
    output:
        "<results>/vem/score/metrics.json",
    log:
        "<results>/records/vem.score/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        cfg=section("vem.score"),
        folder=subpath(input[0], parent=True),
        truth=truth,
    shell:
        "emflow vem score {params.folder}/restored.zarr {params.truth}/image.zarr {output}"
        " --error {params.folder}/uncertainty.zarr"
        " --json {params.cfg:q} --threads {threads} --record {log}"


rule vem_score_segments:
    input:
        "<results>/vem/segmentation.zarr/metrics.json",
    output:
        "<results>/vem/score_segments/metrics.json",
    log:
        "<results>/records/vem.score_segments/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        cfg=section("vem.score_segments"),
        folder=subpath(input[0], parent=True),
        truth=truth,
    shell:
        "emflow vem score-segments {params.folder} {params.truth}/labels.zarr {output} --membrane {params.folder}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


shown = [
    "<results>/vem/slices/metrics.json",
    "<results>/vem/model/metrics.json",
    "<results>/vem/metrics.json",
    ["<results>/vem/segmentation.zarr/metrics.json"] if labels else [],
    ["<results>/vem/score/metrics.json"] if truth else [],
    ["<results>/vem/score_segments/metrics.json"] if truth and labels else [],
]
