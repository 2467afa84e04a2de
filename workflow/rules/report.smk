# One HTML page and summary.json, made from results only. What it shows is listed by shown.smk, or vem.smk.


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
