# Classes of like views, and what they tell of single particles. classify.select.enabled says whether the first map is
# made of the selected particles; a person's labels change the choice without new classes.


if "classify.run" not in project.frozen:

    rule classify_run:
        input:
            "<results>/extract/particles.star",
        output:
            particles="<results>/classify/run/particles.star",
            classes="<results>/classify/run/classes.star",
            averages="<results>/classify/run/classes.mrcs",
        log:
            "<results>/records/classify.run/all.json",
        conda:
            "../../envs/emflow.yaml"
        threads: project.threads(16)
        resources:
            gpu=project.gpu,
            mem_mb=lambda wildcards, attempt: 16000 * attempt,
            runtime=lambda wildcards, attempt: 720 * attempt,
        params:
            cfg=section("classify.run"),
            folder=subpath(output.particles, parent=True),
        shell:
            "emflow classify run {input} {params.folder}"
            " --json {params.cfg:q} --threads {threads} --record {log}"


rule classify_select:
    input:
        particles="<results>/classify/run/particles.star",
        classes="<results>/classify/run/classes.star",
        averages="<results>/classify/run/classes.mrcs",
        labels=project.labels("classify.select", "labels"),
    output:
        selected="<results>/classify/selected.star",
        removed="<results>/classify/removed.star",
        classes="<results>/classify/classes.star",
        metrics="<results>/classify/metrics.json",
        verdicts="<results>/classify/verdicts.json",
    log:
        "<results>/records/classify.select/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        cfg=section("classify.select"),
        classified=subpath(input.particles, parent=True),
        folder=subpath(output.selected, parent=True),
    shell:
        "emflow classify select {params.classified} {params.folder}"
        " --json {params.cfg:q} --threads {threads} --record {log}"
