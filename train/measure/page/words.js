// All texts of the page in two languages. {name} is filled in; texts are only ever set as textContent.

const en = {
  title: "Chimney heights", file: "File", open: "Open …", take: "Take away …", help: "Help", other: "한국어",
  pictures: "Pictures", search: "Search pictures", searchHint: "Search by name", thumbnails: "Thumbnails by scene",
  picture: "Picture", drawing: "Drawing", draw: "Draw", move: "Move", undo: "Undo", redo: "Redo", out: "Zoom out",
  fit: "Fit", in: "Zoom in", stage: "Picture to draw on", overlay: "Chimneys on the picture", views: "Views",
  empty: "Drop pictures here, or open a folder or an archive.",
  chimneys: "Chimneys", review: "Review", decisions: "Decisions", add: "Add a chimney", pool: "Pool by scene",
  none: "Draw from a chimney's base to its top.", predictAll: "Predict all labels", previous: "Previous label",
  next: "Next label", label: "Label", predicted: "Predicted", alone: "Predictions in this list are not pooled.", decision: "Decision",
  openTitle: "Open pictures", openDrop: "Drop files or archives anywhere on the page, or choose them:",
  files: "Files …", folder: "A folder …",
  openTemporary: "Dropped files are copied to a temporary folder, which is deleted when the program ends.",
  openPath: "Or enter paths on this computer", imagesPath: "Pictures: a folder, a ZIP, a tar, a JPEG, a PNG or a TIFF",
  polylinesPath: "Polylines or labels, if there are any", cancel: "Cancel", openNow: "Open", close: "Close",
  takeTitle: "Take away", takeCsv: "Heights as CSV", takeCsvNote: "one row for each chimney",
  takeVia: "VIA project", takeViaNote: "opens in the VGG Image Annotator 2", takeGeojson: "GeoJSON", takeGeojsonNote: "lines in WGS 84, for web maps; only of georeferenced pictures", takeGpkg: "GeoPackage",
  takeGpkgNote: "lines, bases and tops in the pictures' coordinate system, for QGIS; only of georeferenced pictures", takeLabels: "Corrected labels as ZIP",
  takeLabelsNote: "for inspect and train; drawn lines are in it if you stated their height",
  helpTitle: "Keys",
  keys: [
    ["N", "add a chimney in the middle of the view"], ["Tab", "go to the next end of a line"],
    ["← ↑ → ↓", "move that end by 1 pixel, with Shift by 10; without an end, move the picture"],
    ["Delete", "delete a drawn line, or drop a label"], ["Ctrl Z, Ctrl Shift Z", "undo, redo"],
    ["+ − 0", "zoom in, zoom out, fit"], ["D, M", "draw, move"], ["[ ]", "previous and next picture"],
    ["A, C, X", "accept, correct or drop the chosen label"], ["J, K", "next and previous label of the review"],
  ],
  shown: "{n} of {all} pictures", all: "{n} pictures", lines: "{n}", thumbnail: "{name}, {n} chimneys",
  chimney: "Chimney {n}", labelled: "Label {n}", base: "Base of chimney {n}, x {x}, y {y}", top: "Top of chimney {n}, x {x}, y {y}",
  bend: "Bend of chimney {n}, x {x}, y {y}",
  metres: "{h} m", sigma: "± {s} m", interval: "90 % interval: {low} to {high} m",
  openEnd: "90 % interval: above {low} m; the network was calibrated on too few scenes for an upper end",
  uncalibrated: "σ and interval are the network's own: the checkpoint has no calibration.",
  barNote: "Grey bar: training heights, {mean} ± {std} m (mean and standard deviation; the checkpoint has no others).",
  barLabel: "Predicted height {h} m on the scale of the training heights, whose mean is {mean} m",
  pooled: "Pooled: one scale for the {n} chimneys of this scene.", single: "Not pooled: each chimney for itself.",
  long: "Longer than most training lines: {length} px, usually about {usual} px.",
  short: "Shorter than most training lines: {length} px, usually about {usual} px.",
  size: "The picture has {width} × {height} px. The network was made for tiles of {usual} × {usual} px.",
  nameless: "The file name does not state a scene. Pooling takes its part before the last underscore.",
  unlisted: "The checkpoint does not list its training scenes, so this scene may be known or new.",
  unseen: "New scene: the network was not trained on it, so expect the errors of unseen scenes.",
  delete: "Delete", accept: "Accept", correct: "Correct", drop: "Drop", restore: "Restore",
  labelIs: "Label", formulaIs: "Closed form of its metadata", differs: "Label − prediction",
  stated: "Height of the label, m", statedDrawn: "Height, if you know it, m",
  drawn: "drawn", accepted: "accepted", corrected: "corrected", dropped: "dropped",
  heightSpoken: "{who}: {h} metres, plus or minus {s}.",
  formula: "{by} m off the closed form", scene: "{by} m off the scale of its scene", repeated: "the same line twice in this picture",
  skipped: "skipped in training: {reason}", broken: "its picture cannot be decoded",
  auditing: "The audit reads the labels …", noLabels: "No labels are open. Open a label archive to review it.",
  audited: "{flagged} of {n} labels are flagged, {known} are predicted.", working: "Predicting: {known} of {n} labels …",
  labelShort: "label {label} m", predictedShort: "predicted {height} m",
  kept: "Kept in {file}", keptTemporary: "Dropped files: what you draw is kept until the program ends. Take it away before.",
  nothing: "Nothing drawn or decided yet.", saving: "saving …", saved: "saved", conflict: "Another page changed {who} first. Its version is shown.",
  gone: "The program does not answer. Is it still running? Your last change is sent again.",
  uploading: "Copying {n} of {all}: {name}", noFiles: "No file that can be opened was dropped.",
  position: "{name} · {width} × {height} px · {zoom} %", more: "{n} more labels are not shown; decide on these first.",
  unread: "{n} label files cannot be read.", lost: "{n} tiles with polylines have no picture.",
  leftOut: "{n} chimneys are not on the map, because their pictures have no georeference.",
};

const ko = {
  title: "굴뚝 높이", file: "파일", open: "열기 …", take: "내려받기 …", help: "도움말", other: "English",
  pictures: "영상", search: "영상 검색", searchHint: "이름으로 검색", thumbnails: "장면별 미리보기",
  picture: "영상", drawing: "그리기 도구", draw: "그리기", move: "이동", undo: "실행 취소", redo: "다시 실행", out: "축소",
  fit: "맞춤", in: "확대", stage: "선을 그리는 영상", overlay: "영상 위의 굴뚝", views: "보기",
  empty: "영상을 여기에 끌어다 놓거나 폴더 또는 압축 파일을 여세요.",
  chimneys: "굴뚝", review: "검토", decisions: "결정", add: "굴뚝 추가", pool: "장면 단위 결합",
  none: "굴뚝의 바닥에서 꼭대기까지 선을 그리세요.", predictAll: "모든 라벨 예측", previous: "이전 라벨",
  next: "다음 라벨", label: "라벨", predicted: "예측", alone: "이 목록의 예측은 결합하지 않은 값입니다.", decision: "결정",
  openTitle: "영상 열기", openDrop: "파일이나 압축 파일을 페이지에 끌어다 놓거나 선택하세요:",
  files: "파일 …", folder: "폴더 …",
  openTemporary: "끌어다 놓은 파일은 임시 폴더에 복사되며, 프로그램이 끝나면 삭제됩니다.",
  openPath: "또는 이 컴퓨터의 경로를 입력하세요", imagesPath: "영상: 폴더, ZIP, tar, JPEG, PNG 또는 TIFF",
  polylinesPath: "폴리라인 또는 라벨(있는 경우)", cancel: "취소", openNow: "열기", close: "닫기",
  takeTitle: "내려받기", takeCsv: "높이 CSV", takeCsvNote: "굴뚝마다 한 줄",
  takeVia: "VIA 프로젝트", takeViaNote: "VGG Image Annotator 2에서 열립니다", takeGeojson: "GeoJSON", takeGeojsonNote: "WGS 84 좌표의 선, 웹 지도용; 좌표가 있는 영상만", takeGpkg: "GeoPackage",
  takeGpkgNote: "영상 좌표계의 선, 바닥, 꼭대기, QGIS용; 좌표가 있는 영상만", takeLabels: "수정한 라벨 ZIP",
  takeLabelsNote: "inspect와 train용이며, 그린 선은 높이를 입력한 경우에만 포함됩니다",
  helpTitle: "단축키",
  keys: [
    ["N", "화면 가운데에 굴뚝 추가"], ["Tab", "선의 다음 끝점으로 이동"],
    ["← ↑ → ↓", "끝점을 1픽셀, Shift와 함께 10픽셀 이동. 끝점을 선택하지 않았으면 영상 이동"],
    ["Delete", "그린 선 삭제 또는 라벨 제외"], ["Ctrl Z, Ctrl Shift Z", "실행 취소, 다시 실행"],
    ["+ − 0", "확대, 축소, 맞춤"], ["D, M", "그리기, 이동"], ["[ ]", "이전 영상, 다음 영상"],
    ["A, C, X", "선택한 라벨 승인, 수정, 제외"], ["J, K", "검토할 다음 라벨, 이전 라벨"],
  ],
  shown: "영상 {all}개 중 {n}개", all: "영상 {n}개", lines: "{n}", thumbnail: "{name}, 굴뚝 {n}개",
  chimney: "굴뚝 {n}", labelled: "라벨 {n}", base: "굴뚝 {n}의 바닥, x {x}, y {y}", top: "굴뚝 {n}의 꼭대기, x {x}, y {y}",
  bend: "굴뚝 {n}의 꺾인 점, x {x}, y {y}",
  metres: "{h} m", sigma: "± {s} m", interval: "90 % 구간: {low} ~ {high} m",
  openEnd: "90 % 구간: {low} m 이상. 보정에 쓴 장면이 적어 상한이 없습니다",
  uncalibrated: "체크포인트에 보정이 없어 σ와 구간은 네트워크의 출력 그대로입니다.",
  barNote: "회색 막대: 학습 데이터의 높이, {mean} ± {std} m (평균과 표준편차. 체크포인트에는 이것만 있습니다).",
  barLabel: "학습 데이터의 높이(평균 {mean} m) 눈금 위의 예측 높이 {h} m",
  pooled: "결합: 이 장면의 굴뚝 {n}개가 하나의 축척을 공유합니다.", single: "결합하지 않음: 굴뚝마다 따로 예측합니다.",
  long: "학습 데이터의 선보다 깁니다: {length} px, 보통 약 {usual} px.",
  short: "학습 데이터의 선보다 짧습니다: {length} px, 보통 약 {usual} px.",
  size: "영상 크기는 {width} × {height} px입니다. 네트워크는 {usual} × {usual} px 타일에 맞게 학습되었습니다.",
  nameless: "파일 이름에 장면이 없습니다. 결합할 때는 마지막 밑줄 앞부분을 장면으로 봅니다.",
  unlisted: "체크포인트에 학습 장면 목록이 없어, 학습한 장면인지 알 수 없습니다.",
  unseen: "새 장면: 학습하지 않은 장면이므로 미학습 장면 수준의 오차를 예상하세요.",
  delete: "삭제", accept: "승인", correct: "수정", drop: "제외", restore: "되돌리기",
  labelIs: "라벨", formulaIs: "메타데이터의 공식 값", differs: "라벨 − 예측",
  stated: "라벨의 높이, m", statedDrawn: "높이(아는 경우), m",
  drawn: "그림", accepted: "승인", corrected: "수정", dropped: "제외",
  heightSpoken: "{who}: {h}미터, 플러스마이너스 {s}.",
  formula: "공식 값과 {by} m 차이", scene: "장면의 축척과 {by} m 차이", repeated: "이 영상에 같은 선이 두 번 있음",
  skipped: "학습에서 제외됨: {reason}", broken: "영상을 디코딩할 수 없음",
  auditing: "라벨을 검사하는 중 …", noLabels: "열린 라벨이 없습니다. 검토하려면 라벨 압축 파일을 여세요.",
  audited: "라벨 {n}개 중 {flagged}개에 표시가 있고, {known}개를 예측했습니다.", working: "예측 중: 라벨 {n}개 중 {known}개 …",
  labelShort: "라벨 {label} m", predictedShort: "예측 {height} m",
  kept: "저장 위치: {file}", keptTemporary: "끌어다 놓은 파일의 작업은 프로그램이 끝날 때까지만 보관됩니다. 그 전에 내려받으세요.",
  nothing: "아직 그리거나 결정한 것이 없습니다.", saving: "저장 중 …", saved: "저장됨", conflict: "다른 페이지에서 {who}을(를) 먼저 바꾸어 그 값을 표시합니다.",
  gone: "프로그램이 응답하지 않습니다. 실행 중인지 확인하세요. 마지막 변경을 다시 보냅니다.",
  uploading: "{all}개 중 {n}번째 복사 중: {name}", noFiles: "열 수 있는 파일이 없습니다.",
  position: "{name} · {width} × {height} px · {zoom} %", more: "라벨 {n}개는 표시하지 않았습니다. 먼저 위의 라벨을 결정하세요.",
  unread: "라벨 파일 {n}개를 읽을 수 없습니다.", lost: "폴리라인이 있는 타일 {n}개의 영상이 없습니다.",
  leftOut: "좌표가 없는 영상의 굴뚝 {n}개는 지도 파일에 들어 있지 않습니다.",
};

const languages = { en, ko };
let current = localStorage.getItem("language") ?? (navigator.language.startsWith("ko") ? "ko" : "en");
if (!(current in languages)) current = "en";

/** The text `key` in the chosen language, with {name} from `values`. */
export function say(key, values = {}) {
  const text = languages[current][key];
  return typeof text === "string" ? text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? "")) : text;
}

/** Fill in all static texts of the page. */
export function translate() {
  document.documentElement.lang = current;
  document.title = say("title");
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = say(element.dataset.word);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", say(element.dataset.label));
  const language = document.getElementById("language");
  language.textContent = say("other");
  language.lang = current === "en" ? "ko" : "en";
  document.getElementById("search").placeholder = say("searchHint");
  const rows = say("keys").map(([keys, what]) => {
    const row = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td");
    const kbd = document.createElement("kbd");
    kbd.textContent = keys; head.scope = "row"; cell.textContent = what;
    head.append(kbd); row.append(head, cell);
    return row;
  });
  document.getElementById("keys").replaceChildren(...rows);
}

export function switchLanguage() {
  current = current === "en" ? "ko" : "en";
  localStorage.setItem("language", current);
  translate();
}
